"""Whether a model can be compiled, and whether what came of it computes what the model does."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch

from training.data import Sample
from training.engine.loss_model import LossModel

MOST_OFF = 0.25
"""Of a gradient's norm: how far the compiled model's may be from the model's own. Rounding to bfloat16 makes 0.01 to 0.02."""
NEGLIGIBLE = 0.01
"""Of the norm of the whole gradient: what a part that is smaller may be off besides."""


def why_not_compilable(device: torch.device) -> str | None:
    """Why torch.compile cannot work on this machine, or None if it can."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "c++")
        if not any(shutil.which(name) for name in (compiler, "g++", "clang++")):
            return "no C++ compiler found (install g++ or clang++ for about twice the speed)"
    return None


def miscompiled(loss_model: LossModel, batch: Sample, documents: torch.Tensor | None) -> str | None:
    """The parameter whose gradient the compiled model has wrong for a micro-batch; None if all are right.

    torch's code for processors goes through the machine's own C++ compiler, and some of these make other code of it than is
    meant, for a model of one shape and not for the next (docs/decisions.md). No gradient that is there is changed. The model
    must not draw random numbers.
    """
    trained = {name: parameter for name, parameter in loss_model.model.named_parameters() if parameter.requires_grad}

    def gradients() -> dict[str, torch.Tensor]:
        loss, _ = loss_model(batch, documents)
        return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))

    with torch.compiler.set_stance("force_eager"), checkpointed(loss_model.model):
        right = gradients()
    found = gradients()
    norms = {name: float(gradient.norm()) for name, gradient in right.items() if gradient is not None}
    whole = sum(norm**2 for norm in norms.values()) ** 0.5
    for name, norm in norms.items():
        off = float((found[name] - right[name]).norm())
        if not off <= MOST_OFF * norm + NEGLIGIBLE * whole:  # written so that NaN is wrong too
            return name
    return None


@contextlib.contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """Inside, a transformers model keeps little for its backward pass: no more memory than compiled."""
    if model.is_activation_checkpointing:
        yield
        return
    model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
