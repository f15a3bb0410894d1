"""What an engine needs of the way in which ranks share the work, and the simplest one: each has the whole model."""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from training.checkpoint import LossScale
from training.data import Sample
from training.engine.loss_model import LossModel
from training.engine.precision import autocast

Weights = dict[str, torch.Tensor]
"""Name, as the transformers model has it → whole tensor."""
Moments = dict[str, dict[str, torch.Tensor]]
"""Name of a parameter → what the optimiser remembers of it, by its own names; whole tensors, and scalars."""


class Strategy(abc.ABC):
    """How the ranks share a model, its gradient and its optimiser.

    What it gives out for a checkpoint and takes back from one has the form that a single process would have.
    """

    cuts_weights = False
    """Whether a rank lacks some of the weights outside of forward and backward."""

    def __init__(self, loss_model: LossModel, optimizer: torch.optim.Optimizer, clip: float) -> None:
        self.model = loss_model.model
        self.optimizer = optimizer
        self.clip = clip

    @abc.abstractmethod
    def backward(self, batch: Sample, documents: torch.Tensor | None, scale: float, last: bool) -> torch.Tensor:
        """Adds the gradient of `scale` times this rank's summed loss; returns the parts of the loss.

        Gradients are averaged over the ranks. documents: of `LossModel`. last: of the micro-batches of a step.
        """

    @abc.abstractmethod
    def step(self) -> torch.Tensor | float:
        """Clips the gradient, updates the weights and clears the gradient; returns its norm before clipping."""

    @abc.abstractmethod
    def weights(self, everywhere: bool = False) -> Weights:
        """The weights that are trained, each whole, on the CPU; all ranks call it.

        Without `everywhere`, other ranks than the first get none.
        """

    @abc.abstractmethod
    def moments(self) -> Moments:
        """What the optimiser remembers, on the CPU of the first rank. All ranks call it."""

    @abc.abstractmethod
    def load(self, weights: Weights, moments: Moments) -> None:
        """Takes over what a checkpoint holds; every rank gives all of it."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Makes the optimiser as it was before its first step."""

    @property
    @abc.abstractmethod
    def loss_scale(self) -> LossScale | None:
        """What losses are multiplied by in float16; None in wider formats."""

    @loss_scale.setter
    @abc.abstractmethod
    def loss_scale(self, value: LossScale) -> None: ...


class Replicated(Strategy):
    """The whole model on every rank: one process, or several whose gradients DistributedDataParallel averages."""

    def __init__(
        self,
        loss_model: LossModel,
        optimizer: torch.optim.Optimizer,
        clip: float,
        precision: str,
        accelerator: Accelerator,
    ) -> None:
        super().__init__(loss_model, optimizer, clip)
        self.accelerator = accelerator
        self.device = torch.device(accelerator.device)
        self.precision = precision
        self.scaler = self.fresh_scaler()
        self.module = self.spread(loss_model)

    def fresh_scaler(self) -> torch.amp.GradScaler:
        """What scales losses in float16, and does nothing in wider formats."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def spread(self, loss_model: LossModel) -> torch.nn.Module:
        """The model on this rank's device, in touch with the other ranks."""
        return self.accelerator.prepare_model(loss_model)

    def backward(self, batch: Sample, documents: torch.Tensor | None, scale: float, last: bool) -> torch.Tensor:
        with contextlib.nullcontext() if last else self.without_reduction():
            with autocast(self.device, self.precision):
                loss, parts = self.module(batch, documents)
            self.scaler.scale(loss * scale).backward()
        return parts.detach()

    def without_reduction(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, gradients are only added up; the last micro-batch's are averaged with them."""
        return self.accelerator.no_sync(self.module)

    def step(self) -> torch.Tensor | float:
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    def weights(self, everywhere: bool = False) -> Weights:
        kept = everywhere or self.accelerator.is_main_process
        whole = ((name, self.whole(parameter)) for name, parameter in self.trained())
        return {name: tensor.cpu() for name, tensor in whole if kept}

    def moments(self) -> Moments:
        kept: Moments = {}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                whole = self.whole(value)
                if self.accelerator.is_main_process:
                    kept.setdefault(name, {})[key] = whole.cpu()
        return kept

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """What learns, by name: all parameters, or those of an adapter."""
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """All of a tensor that is cut up among the ranks, which all call this."""
        return tensor.detach()

    @torch.no_grad()
    def load(self, weights: Weights, moments: Moments) -> None:
        for name, parameter in self.trained():
            parameter.copy_(self.part(weights[name], parameter))
            if name in moments:
                self.optimizer.state[parameter] = {
                    key: self.part(value, parameter) if value.shape == parameter.shape else value.to(self.device, copy=True)
                    for key, value in moments[name].items()
                }

    def part(self, whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """What this rank holds of a tensor that is cut up as `parameter` is."""
        return whole.to(parameter.device, copy=True)

    def forget(self) -> None:
        clear(self.optimizer)
        self.scaler = self.fresh_scaler()

    @property
    def loss_scale(self) -> LossScale | None:
        if not self.scaler.is_enabled():
            return None
        state = self.scaler.state_dict()
        return LossScale(float(state["scale"]), int(state["_growth_tracker"]))

    @loss_scale.setter
    def loss_scale(self, value: LossScale) -> None:
        if self.scaler.is_enabled():
            state = self.scaler.state_dict() | {"scale": value.factor, "_growth_tracker": value.good_steps}
            self.scaler.load_state_dict(state)


@torch.no_grad()
def clear(optimizer: torch.optim.Optimizer) -> None:
    """Sets to zero what an optimiser remembers; zero is what Adam and Muon begin with."""
    for state in optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value):
                value.zero_()
