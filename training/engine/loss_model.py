"""The model as an engine sees it: token ids in, summed loss out."""

from typing import Any

import torch

from codelm.config.pretrain import PretrainConfig
from training import attention
from training.data import Sample
from training.loss import chunked_cross_entropy


class LossModel(torch.nn.Module):
    """A transformers causal language model that answers with its summed loss and never builds all logits."""

    def __init__(self, model: Any, config: PretrainConfig, compile_: bool) -> None:
        super().__init__()
        self.model = model
        self.z_loss = config.z_loss
        self._loss = torch.compile(self._eager_loss) if compile_ else self._eager_loss

    def forward(self, batch: Sample, documents: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to learn from, summed over the labels that count, and −log p(label) summed by kind, (len(KINDS),).

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
        apart = {} if positions is None or documents is None else attention.model_inputs(self.model, positions, documents)
        hidden = self.model.model(input_ids=ids, use_cache=False, **apart).last_hidden_state.flatten(0, 1)
        if torch.is_autocast_enabled(ids.device.type):
            # the last norm answers in float32; the head's product shall be as narrow as the others
            hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, labels.flatten(), kinds.flatten(), self.z_loss)
