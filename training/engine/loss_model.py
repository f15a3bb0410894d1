"""The model as an engine sees it: token ids in, summed loss out."""

from typing import Any

import torch

from codelm.config.pretrain import PretrainConfig
from training.data import Sample
from training.loss import chunked_cross_entropy


class LossModel(torch.nn.Module):
    """A transformers causal language model that answers with its summed loss and never builds all logits."""

    def __init__(self, model: Any, config: PretrainConfig, compile_: bool) -> None:
        super().__init__()
        self.model = model
        self.z_loss = config.z_loss
        self._loss = torch.compile(self._eager_loss) if compile_ else self._eager_loss

    def forward(self, batch: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to learn from, summed over the labels that count, and −log p(label) summed by kind, (len(KINDS),)."""
        return self._loss(batch.ids, batch.labels, batch.kinds)

    def _eager_loss(self, ids: torch.Tensor, labels: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        if torch.is_autocast_enabled(ids.device.type):
            # the last norm answers in float32; the head's product shall be as narrow as the others
            hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, labels.flatten(), kinds.flatten(), self.z_loss)
