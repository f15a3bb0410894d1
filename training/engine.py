"""The model as the loop sees it: token ids in, summed loss out, compiled and under autocast where that is asked for."""

import os
import shutil
from typing import Any

import torch
from accelerate import Accelerator

from codelm.config.preset import PretrainConfig
from training import attention
from training.loss import chunked_cross_entropy


class LossModel(torch.nn.Module):
    """A transformers causal language model that answers with its summed loss and never builds all logits."""

    def __init__(self, model: Any, compile_: bool) -> None:
        super().__init__()
        self.model = model
        self._loss = torch.compile(self._eager_loss) if compile_ else self._eager_loss

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ids, labels: (micro_batch, length). Returns the sum of −log p(label) over the labels that count."""
        return self._loss(ids, labels)

    def _eager_loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        if torch.is_autocast_enabled(ids.device.type):
            # the last norm answers in float32; the head's product shall be as narrow as the others
            hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, labels.flatten())


class Engine:
    """Model, optimiser and device under Accelerate: one CPU or GPU, or several ranks, by its launcher's environment."""

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, config: PretrainConfig) -> None:
        self.accelerator = Accelerator(mixed_precision=config.precision)
        self.clip = config.clip
        self.why_not_compiled = why_not_compilable(self.accelerator.device) if config.compile else "compile is off"
        self.model = model
        if self.accelerator.device.type == "cpu" and model.config.max_position_embeddings <= attention.LONGEST:
            model.set_attn_implementation(attention.NAME)
        wrapped = LossModel(model, compile_=self.why_not_compiled is None)
        self.loss_model, self.optimizer = self.accelerator.prepare(wrapped, optimizer)

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return int(self.accelerator.process_index)

    def backward(self, ids: torch.Tensor, labels: torch.Tensor, divisor: int) -> torch.Tensor:
        """Adds the gradient of one micro-batch; returns its summed loss.

        divisor: labels of the whole step over all micro-batches and ranks, so that each token weighs the same however the
        step is cut.
        """
        device = self.accelerator.device
        loss = self.loss_model(ids.to(device), labels.to(device))
        # ranks: gradients are averaged over them
        self.accelerator.backward(loss * (self.ranks / divisor))
        return loss.detach()

    def update(self, learning_rate: float) -> torch.Tensor:
        """Clips, steps and clears the gradient; returns its norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self.accelerator.clip_grad_norm_(self.loss_model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def total(self, loss: torch.Tensor) -> float:
        """A loss summed over all ranks."""
        return float(self.accelerator.reduce(loss, reduction="sum"))


def why_not_compilable(device: torch.device) -> str | None:
    """Why torch.compile cannot work on this machine, or None if it can."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "c++")
        if not any(shutil.which(name) for name in (compiler, "g++", "clang++")):
            return "no C++ compiler found (install g++ or clang++ for about twice the speed)"
    return None
