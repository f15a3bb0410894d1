"""Checkpoints: folders `checkpoint-<step>` that are whole or not there.

`model.safetensors` and `config.json` are in Hugging Face layout, those of an adapter in PEFT's, and so is `average/`, if the
run keeps an average of its weights. `optimizer.pt` and `state.json` are what a resumed run needs besides; the data position
is the step itself. `state.json` holds the SHA-256 of the other files.
"""

import json
import os
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from codelm.errors import UserError
from codelm.run_folder import AVERAGE, STATE, found, name_of, step_of
from codelm.stage import disk_full_is_a_user_error, file_sha256
from training.adapter import has_adapter, read_adapter, write_adapter
from training.optimizers import averages

OPTIMIZER = "optimizer.pt"
TIED = "lm_head.weight"
"""The head, which is stored once, as the embedding."""


class LossScale(NamedTuple):
    """By what losses are multiplied, so that float16 can hold their gradients."""

    factor: float
    good_steps: int
    """since it last changed; after some thousands it grows"""


class State(NamedTuple):
    """What a run needs to go on, in the form that a single process has it in."""

    step: int
    """steps done"""
    weights: dict[str, torch.Tensor]
    """of what is trained, by the names of the transformers model, the tied head once"""
    moments: dict[str, dict[str, torch.Tensor]]
    """what the optimiser remembers of each parameter"""
    loss_scale: LossScale | None
    """of a run in float16"""


def save(folder: Path, state: State, model: Any) -> Path:
    """Writes `folder/checkpoint-<step>` by way of a temporary folder.

    model: tells how weights are laid out on disk. Raises UserError if the disk is full; the checkpoints that stood before
    still stand.
    """
    target, temporary = folder / name_of(state.step), folder / f".{name_of(state.step)}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_full_is_a_user_error(folder):
            temporary.mkdir(parents=True)
            write_weights(temporary, model, state.weights)
            write_moments(temporary / OPTIMIZER, state.moments)
            if average := averages(state.moments):
                write_weights(temporary / AVERAGE, model, average)
            seal(temporary, {"step": state.step, "loss_scale": state.loss_scale})
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Makes a folder with weights a checkpoint that `codelm.checkpoints.verify` can tell from a damaged one.

    facts: what else to say of it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    (folder / STATE).write_text(json.dumps(facts | {"files": files}, indent=2) + "\n", encoding="utf-8")
    for path in (*paths, folder / STATE):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def prune(folder: Path, keep: int, spared: Container[str]) -> None:
    """Drops all checkpoints but the newest `keep` and those whose names are spared."""
    for old in found(folder)[:-keep]:
        if old.name not in spared:
            shutil.rmtree(old)


def write_weights(folder: Path, model: Any, weights: dict[str, torch.Tensor]) -> None:
    """save_pretrained, with the operating system's own error if the disk is full (safetensors hides it in a text)."""
    try:
        if has_adapter(model):
            write_adapter(folder, model, weights)
        else:
            model.save_pretrained(folder, state_dict=weights)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def write_moments(path: Path, moments: dict[str, dict[str, torch.Tensor]]) -> None:
    """torch.save, with the operating system's own error if the disk is full (torch hides it in a RuntimeError)."""
    with path.open("wb") as file:
        try:
            torch.save(moments, file)
        except RuntimeError as error:
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else error from None


def read(path: Path, model: torch.nn.Module) -> State:
    """What a checkpoint holds. Raises UserError if it is one of another model."""
    weights = read_adapter(path) if has_adapter(model) else load_file(path / "model.safetensors")
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in learned.items()}  # ds_shape: of one cut up by ZeRO
    if {name: tensor.shape for name, tensor in weights.items() if name != TIED} != shapes:
        raise UserError(f"{path} is a checkpoint of another model", "give another --run, or --restart")
    moments = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
    facts = json.loads((path / STATE).read_text(encoding="utf-8"))
    scale = facts["loss_scale"]
    return State(step_of(path), weights, moments, LossScale(*scale) if scale else None)
