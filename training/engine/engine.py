"""What the loop needs of a model and its optimiser, on whatever computes them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from codelm.config.pretrain import PretrainConfig
from training import attention, checkpoint
from training.data import Sample
from training.engine.loss_model import LossModel
from training.engine.precision import precision_of, why_not_compilable

Objective = Callable[[Any, PretrainConfig, bool], LossModel]
"""Makes what is trained of a model, the settings, and whether it is compiled."""


class Engine:
    """Model, optimiser and device under Accelerate: one CPU or GPU, or several ranks, by its launcher's environment.

    What a loop needs of it: `backward` for each micro-batch, `update` for each step, `total` for what is logged, `save` and
    `restore` for checkpoints that do not depend on the number of ranks.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        objective: Objective = LossModel,
    ) -> None:
        self.accelerator = Accelerator(mixed_precision=precision_of(config.engine.precision))
        self.clip = config.clip
        self.why_not_compiled = why_not_compilable(self.accelerator.device) if config.engine.compile else "compile is off"
        self.model = model
        self.document_mask = config.data.document_mask
        self.attention = attention.prepare(model, config, self.device, half=self.accelerator.mixed_precision != "no")
        wrapped = objective(model, config, self.why_not_compiled is None)
        self.extras = wrapped.extras
        self.loss_model, self.optimizer = self.accelerator.prepare(wrapped, optimizer)

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return int(self.accelerator.process_index)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self.accelerator.device)

    def backward(self, batch: Sample, divisor: int) -> torch.Tensor:
        """Adds the gradient of one micro-batch; returns the parts of the loss, (len(KINDS) + len(extras),).

        divisor: labels of the whole step over all micro-batches and ranks, so that each token weighs the same however the
        step is cut.
        """
        loss, by_kind = self.loss_model(*self.inputs(batch))
        # ranks: gradients are averaged over them
        self.accelerator.backward(loss * (self.ranks / divisor))
        return by_kind.detach()

    def inputs(self, batch: Sample) -> tuple[Sample, torch.Tensor | None]:
        """A micro-batch on this rank's device, and what keeps its documents apart, if they are to be."""
        documents = attention.documents_of(self.attention, batch.positions) if self.document_mask else None
        batch = type(batch)(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        return batch, None if documents is None else documents.to(self.device, non_blocking=True)

    def update(self, share: float) -> torch.Tensor:
        """Clips, steps and clears the gradient; returns its norm before clipping.

        share: of each group's peak learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        norm = self.accelerator.clip_grad_norm_(self.loss_model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Values summed over all ranks."""
        return self.accelerator.reduce(values.to(self.device), reduction="sum").cpu()

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised on all ranks if any rank raises it: what one decides, all do."""
        if self.ranks == 1:
            return flags
        return tuple((self.total(torch.tensor(flags, dtype=torch.int32)) > 0).tolist())

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Any]:
        """The model as others use it: without dropout, with attention that knows caches and padding."""
        attention_before, training = self.model.config._attn_implementation, self.model.training
        self.model.set_attn_implementation("sdpa")
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train(training)
            self.model.set_attn_implementation(attention_before)

    def save(self, folder: Path, step: int) -> None:
        """Writes `folder/checkpoint-<step>`; all ranks call it, one writes."""
        if self.rank == 0:
            checkpoint.save(folder, step, self.model, self.optimizer.optimizer)

    def restore(self, path: Path) -> int:
        """Loads a checkpoint on every rank; returns the steps done."""
        return checkpoint.restore(path, self.model, self.optimizer.optimizer)
