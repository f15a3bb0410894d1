"""The model as an engine sees it: token ids in, summed loss out."""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from codelm.config.pretrain import PretrainConfig
from training import attention
from training.data import Sample
from training.loss import chunked_cross_entropy

Compiled = Literal["whole", "blocks"]
"""What torch.compile sees: forward and loss as one graph, or each block and the loss for itself."""


class LossModel(torch.nn.Module):
    """A transformers causal language model that answers with its summed loss and never builds all logits."""

    extras: tuple[str, ...] = ()
    """What an objective tells besides −log p by kind, by name: sums over the labels that count."""

    def __init__(self, model: Any, config: PretrainConfig, compiled: Compiled | None) -> None:
        super().__init__()
        self.model = model
        self.z_loss = config.z_loss
        self.placed = config.engine.sequence_parallel > 1
        """Whether the model must be told where its tokens stand, for others have what comes before."""
        self._loss = torch.compile(self._eager_loss) if compiled == "whole" else self._eager_loss
        self._cross_entropy = torch.compile(chunked_cross_entropy) if compiled == "blocks" else chunked_cross_entropy
        if compiled == "blocks":
            for block in blocks(model):
                block.compile()

    def uncompile(self) -> None:
        """Computes as it is written from now on, whole models only."""
        self._loss = self._eager_loss

    def forward(self, batch: Sample, documents: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to learn from, summed over the labels that count, and its parts, (len(KINDS) + len(extras),).

        The parts are −log p(label) summed by kind, and the extras of the objective.
        documents: what keeps the documents apart, from `attention.documents_of`; None: each token sees all before it.
        """
        if documents is not None and documents.ndim == 1:
            torch._dynamo.maybe_mark_dynamic(documents, 0)  # their number is another in each batch
        return self._loss(batch.ids, batch.labels, batch.kinds, self.positions(batch, documents), documents)

    def _eager_loss(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        kinds: torch.Tensor,
        positions: torch.Tensor | None,
        documents: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = last_hidden(self.model, ids, positions, documents)
        return self._cross_entropy(hidden, self.model.lm_head.weight, labels.flatten(), kinds.flatten(), self.z_loss)

    def positions(self, batch: Any, documents: torch.Tensor | None) -> torch.Tensor | None:
        """Where the tokens of a batch stand, if the model has to be told: those of documents, or of parts of sequences."""
        return batch.positions if self.placed or documents is not None else None


def last_hidden(
    model: Any, ids: torch.Tensor, positions: torch.Tensor | None = None, documents: torch.Tensor | None = None
) -> torch.Tensor:
    """What a model's head reads of each token, (batch · length, width). positions: None: counted through each row."""
    further: dict[str, torch.Tensor | None] = {"position_ids": positions}
    if positions is not None and documents is not None:
        further |= attention.model_inputs(model, positions, documents)
    hidden = model.model(input_ids=ids, use_cache=False, **further).last_hidden_state.flatten(0, 1)
    if torch.is_autocast_enabled(ids.device.type):
        # the last norm answers in float32; the head's product shall be as narrow as the others
        hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
    return hidden


def blocks(model: Any) -> Iterable[torch.nn.Module]:
    """The transformer blocks of a transformers model."""
    names = set(model._no_split_modules)
    return [module for module in model.modules() if type(module).__name__ in names]
