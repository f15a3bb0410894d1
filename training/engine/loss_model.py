"""The model as an engine sees it: token ids in, summed loss out."""

from typing import Any

import torch

from codelm.config.pretrain import PretrainConfig
from training import attention
from training.data import Sample
from training.loss import chunked_cross_entropy


class LossModel(torch.nn.Module):
    """A transformers causal language model that answers with its summed loss and never builds all logits."""

    extras: tuple[str, ...] = ()
    """What an objective tells besides −log p by kind, by name: sums over the labels that count."""

    def __init__(self, model: Any, config: PretrainConfig, compile_: bool) -> None:
        super().__init__()
        self.model = model
        self.z_loss = config.z_loss
        self._loss = torch.compile(self._eager_loss) if compile_ else self._eager_loss

    def forward(self, batch: Sample, documents: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to learn from, summed over the labels that count, and its parts, (len(KINDS) + len(extras),).

        The parts are −log p(label) summed by kind, and the extras of the objective.
        documents: what keeps the documents apart, from `attention.documents_of`; None: each token sees all before it.
        """
        if documents is None:
            return self._loss(batch.ids, batch.labels, batch.kinds)
        if documents.ndim == 1:
            torch._dynamo.maybe_mark_dynamic(documents, 0)  # their number is another in each batch
        return self._loss(batch.ids, batch.labels, batch.kinds, batch.positions, documents)

    def _eager_loss(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        kinds: torch.Tensor,
        positions: torch.Tensor | None = None,
        documents: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = last_hidden(self.model, ids, positions, documents)
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, labels.flatten(), kinds.flatten(), self.z_loss)


def last_hidden(
    model: Any, ids: torch.Tensor, positions: torch.Tensor | None = None, documents: torch.Tensor | None = None
) -> torch.Tensor:
    """What a model's head reads of each token, (batch · length, width). Arguments as of `LossModel`."""
    apart = {} if positions is None or documents is None else attention.model_inputs(model, positions, documents)
    hidden = model.model(input_ids=ids, use_cache=False, **apart).last_hidden_state.flatten(0, 1)
    if torch.is_autocast_enabled(ids.device.type):
        # the last norm answers in float32; the head's product shall be as narrow as the others
        hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
    return hidden
