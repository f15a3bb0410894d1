"""Checkpoints: folders `checkpoint-<step>` that are whole or not there.

`model.safetensors` and `config.json` are in Hugging Face layout. `optimizer.pt` and `state.json` are what a resumed run
needs besides; the data position is the step itself. `state.json` holds the SHA-256 of the other files.
"""

import json
import os
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from codelm.errors import UserError
from codelm.stage import disk_full_is_a_user_error, file_sha256
from training.run_folder import STATE, found, name_of, step_of


def save(folder: Path, step: int, model: Any, optimizer: torch.optim.Optimizer) -> Path:
    """Writes `folder/checkpoint-<step>` by way of a temporary folder.

    Raises UserError if the disk is full; the checkpoints that stood before still stand.
    """
    target, temporary = folder / name_of(step), folder / f".{name_of(step)}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_full_is_a_user_error(folder):
            temporary.mkdir(parents=True)
            write_weights(temporary, model)
            write_optimizer(temporary / "optimizer.pt", optimizer)
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            (temporary / STATE).write_text(json.dumps({"step": step, "files": files}, indent=2) + "\n", encoding="utf-8")
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def prune(folder: Path, keep: int, spared: Container[str]) -> None:
    """Drops all checkpoints but the newest `keep` and those whose names are spared."""
    for old in found(folder)[:-keep]:
        if old.name not in spared:
            shutil.rmtree(old)


def write_weights(folder: Path, model: Any) -> None:
    """save_pretrained, with the operating system's own error if the disk is full (safetensors hides it in a text)."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def write_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """torch.save, with the operating system's own error if the disk is full (torch hides it in a RuntimeError)."""
    with path.open("wb") as file:
        try:
            torch.save(optimizer.state_dict(), file)
        except RuntimeError as error:
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else error from None


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, if there is one. Raises UserError if it is damaged."""
    paths = found(folder)
    if not paths:
        return None
    verify(paths[-1])
    return paths[-1]


def verify(path: Path) -> None:
    """Raises UserError if a file of the checkpoint is missing or is not what was written."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        damaged = [name for name, sha256 in state["files"].items() if file_sha256(path / name) != sha256]
    except (OSError, ValueError, KeyError) as error:
        damaged = [str(error)]
    if damaged:
        raise UserError(
            f"{path} is damaged ({', '.join(damaged)})", "delete that folder; training goes on from the checkpoint before it"
        )


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads weights and optimiser state in place; returns the number of steps done."""
    # strict=False: the tied head is stored once, as the embedding
    missing, unexpected = model.load_state_dict(load_file(path / "model.safetensors"), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise UserError(f"{path} is a checkpoint of another model", "give another --run, or --restart")
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))
    return step_of(path)
