"""What the loop needs of a model and its optimiser, on whatever computes them."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from codelm.config.pretrain import PretrainConfig
from codelm.config.rules import Strategy as StrategyName
from codelm.config.rules import strategy_of
from training import attention, checkpoint
from training.data import Sample
from training.engine.allocator import keep_freed_memory
from training.engine.compilation import miscompiled, why_not_compilable
from training.engine.loss_model import Compiled, LossModel
from training.engine.precision import autocast, precision_of
from training.engine.ranks import Ranks
from training.engine.sequence import SharedSequence
from training.engine.strategy import Replicated, Strategy
from training.optimizers import without_averages

COMPILED: dict[StrategyName, Compiled] = {"single": "whole", "ddp": "whole", "zero2": "whole", "fsdp2": "blocks"}
"""What can be compiled: gathering weights breaks a graph, between blocks (FSDP2) or in every module (ZeRO-3)."""

Objective = Callable[[Any, PretrainConfig, Compiled | None], LossModel]
"""Makes what is trained of a model, the settings, and what of it is compiled."""


class NotFiniteError(Exception):
    """The loss or the gradient of a step is no finite number: its weights are not to be kept."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step
        """counted from 0"""


class Engine:
    """Model, optimiser, device and ranks: one CPU or GPU, or several processes by their launcher's environment.

    What a loop needs of it: `backward` for each micro-batch, `update` for each step, `total` for what is logged, `save` and
    `restore` for checkpoints that depend neither on the number of ranks nor on how they share the work.
    """

    _broken_at: torch.Tensor
    _sound: torch.Tensor

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        objective: Objective = LossModel,
    ) -> None:
        settings = config.engine
        self.world = Ranks()
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, which transformers loads, warns if it has to guess
            keep_freed_memory()
        self.precision = precision_of(settings.precision)
        self.keeps_average = config.ema is not None
        self.model = model
        name = strategy_of(settings, self.world.count)
        self.why_not_compiled = self._why_not_compiled(config, name)
        self.has_compiled = False
        self.document_mask = config.data.document_mask
        self.attention = attention.prepare(model, config, self.device, half=self.precision != "no")
        self.sequence = SharedSequence(settings.sequence_parallel, self.world) if settings.sequence_parallel > 1 else None
        if self.sequence:
            self.sequence.attend(model, self.attention, config.micro_batch_size)
        if settings.gradient_checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        self.loss_model = objective(model, config, None if self.why_not_compiled else COMPILED[name])
        self.extras = self.loss_model.extras
        self.strategy = self._strategy(name, self.loss_model, optimizer, config)
        self._begin_at(0)

    def _why_not_compiled(self, config: PretrainConfig, name: StrategyName) -> str | None:
        if not config.engine.compile:
            return "compile is off"
        if name not in COMPILED:
            return f"{name} gathers weights in every module, which leaves nothing to compile"
        return why_not_compilable(self.device)

    def _strategy(
        self, name: StrategyName, loss_model: LossModel, optimizer: torch.optim.Optimizer, config: PretrainConfig
    ) -> Strategy:
        if name == "fsdp2":
            from training.engine.fsdp import FullySharded

            return FullySharded(loss_model, optimizer, config.clip, self.precision, self.accelerator)
        if name in ("zero2", "zero3"):
            from training.engine.zero import Zero

            stage = int(name.removeprefix("zero"))
            return Zero(loss_model, optimizer, config.clip, self.precision, self.device, stage, config.engine.deepspeed_config)
        return Replicated(loss_model, optimizer, config.clip, self.precision, self.accelerator)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.world.leads

    @property
    def ranks(self) -> int:
        """How many share out the samples: processes, those that share a sequence counted once."""
        return self.world.count // (self.sequence.size if self.sequence else 1)

    @property
    def rank(self) -> int:
        """Which of them this process is."""
        return self.world.rank // (self.sequence.size if self.sequence else 1)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self.accelerator.device)

    def backward(self, batch: Sample, divisor: int, last: bool = True) -> torch.Tensor:
        """Adds the gradient of one micro-batch; returns the parts of the loss, (len(KINDS) + len(extras),).

        divisor: labels of the whole step over all micro-batches and ranks, so that each token weighs the same however the
        step is cut. last: of the micro-batches of the step.
        """
        # world.count: gradients are averaged over all processes
        parts = self.strategy.backward(*self.inputs(batch), self.world.count / divisor, last)
        self._sound &= parts.isfinite().all()
        # ranks that share a sequence have summed a part each, and `total` takes them for copies
        return parts * (self.sequence.size if self.sequence else 1)

    def check_compiled(self, batch: Sample) -> None:
        """Goes on uncompiled if the compiled model computes another gradient of a micro-batch than the model itself.

        On processors; a GPU's compiler comes with torch. All ranks call it, before the first step, with a model that drops
        nothing out.
        """
        whole = type(self.strategy) is Replicated  # FSDP2, which is one too, computes by hooks of its own
        if self.why_not_compiled or self.device.type != "cpu" or not whole:
            return
        with self.autocast():
            wrong = miscompiled(self.loss_model, *self.inputs(batch))
        self.has_compiled = True
        (anywhere,) = self.agree(wrong is not None)
        if anywhere:
            where = f", as the gradient of {wrong} shows" if wrong else ""
            self.why_not_compiled = (
                f"the C++ compiler makes wrong code of this model{where} (another one, such as CXX=clang++, or another"
                " pretrain.engine.micro_batch_size may do better)"
            )
            self.loss_model.uncompile()

    def inputs(self, batch: Sample) -> tuple[Sample, torch.Tensor | None]:
        """A micro-batch on this rank's device, and what keeps its documents apart, if they are to be."""
        documents = attention.documents_of(self.attention, batch.positions) if self.document_mask else None
        if self.sequence:
            batch = self.sequence.part(batch, placed=self.document_mask)
        batch = type(batch)(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        return batch, None if documents is None else documents.to(self.device, non_blocking=True)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, products are computed in the run's precision, as they are in `backward`."""
        return autocast(self.device, self.precision)

    def update(self, share: float) -> torch.Tensor | float:
        """Clips, steps and clears the gradient; returns its norm before clipping.

        share: of each group's peak learning rate.
        """
        for group in self.strategy.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        norm = self.strategy.step()
        if (scale := self.strategy.loss_scale) is None:
            self._sound &= torch.as_tensor(norm, device=self.device).isfinite()
        else:  # a gradient that float16 cannot hold is met by a smaller scale, but not for ever
            self._sound &= scale.factor >= 1
        self._broken_at = torch.where((self._broken_at < 0) & ~self._sound, self.steps, self._broken_at)
        self.steps += 1
        return norm

    def check_finite(self) -> None:
        """Raises NotFiniteError of the first step, on any rank, whose loss or gradient was no finite number.

        All ranks call it, when they look at the model or keep it: what is asked of the device each step would make it wait.
        """
        steps = [step for step in self.world.gather(int(self._broken_at)) if step >= 0]
        if steps:
            raise NotFiniteError(min(steps))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Values summed over those that share out the samples, on the CPU."""
        total = self.world.sum(values)
        return total if self.sequence is None else (total / self.sequence.size).to(total.dtype)

    def forget(self) -> None:
        """Makes the optimiser as it was before its first step; for steps at a learning rate of 0, which change no weight."""
        self.strategy.forget()
        self._begin_at(0)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised on all ranks if any rank raises it: what one decides, all do."""
        return self.world.any(*flags)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Any]:
        """The whole model on every rank, as others use it: without dropout, with attention that knows caches and padding."""
        if self.strategy.cuts_weights:
            weights = self.strategy.weights(everywhere=True)
            with self.device:
                # the layers of a model read how to attend from its configuration
                whole = type(self.model)(copy.deepcopy(self.model.config))
            whole.load_state_dict(weights, strict=False)
            whole.set_attn_implementation("sdpa")
            yield whole.eval()
            return
        attention_before = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa")
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train()
            self.model.set_attn_implementation(attention_before)

    def save(self, folder: Path, step: int) -> Path:
        """Writes `folder/checkpoint-<step>`; all ranks call it, one writes. Raises NotFiniteError as `check_finite` does."""
        self.check_finite()
        state = checkpoint.State(step, self.strategy.weights(), self.strategy.moments(), self.strategy.loss_scale)
        return self.world.first(lambda: checkpoint.save(folder, state, self.model))

    def restore(self, path: Path) -> int:
        """Loads a checkpoint on every rank; returns the steps done."""
        state = checkpoint.read(path, self.model)
        moments = state.moments if self.keeps_average else without_averages(state.moments)
        self.strategy.load(state.weights, moments)
        if state.loss_scale is not None:
            self.strategy.loss_scale = state.loss_scale
        self._begin_at(state.step)
        return state.step

    def _begin_at(self, step: int) -> None:
        self.steps = step
        self._broken_at = torch.full((), -1, device=self.device)
        """the first step that was not sound; −1: none"""
        self._sound = torch.ones((), dtype=torch.bool, device=self.device)
