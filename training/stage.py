"""What every training stage shares: its folder is claimed, grows in place, and ends with its manifest.

A killed run is to be resumed from its folder: `settings.json` says what it is a run of, `preset.yaml` with which preset,
`models.json` upon which others, `budget.json` how long it is, `checkpoint-<step>/` where it stands.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from codelm.config.preset import Preset
from codelm.config.rules import why_not
from codelm.config.settings import differing, flat
from codelm.errors import UserError
from codelm.run_folder import MODELS, PRESET, SETTINGS, marked_as_running
from codelm.stage import Manifest, Stage, disk_full_is_a_user_error, write_atomically
from training.engine.ranks import Ranks

OPERATIONAL: Any = {"engine": True, "watch": {"log_every", "checkpoint_seconds", "keep_checkpoints", "wandb"}}
"""Settings that may change when a run is resumed: the weights do not depend on them."""
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def run_stage(
    stage: Stage,
    preset: Preset,
    train: Callable[[], dict[str, Any]],
    restart: Callable[[], object] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Manifest:
    """The manifest of a training stage, which `train` brings to its end if it does not stand already.

    preset: what the model is and how it is trained, kept in the folder for the stages to come. train: resumes or begins in
    `stage.folder` and returns what the manifest says of the run. restart: throw away what another or the same run left
    there, after a call of this, which may raise UserError. models: what it begins with or learns from, "init", "from", "base"
    or "teacher" → `origin.described`. All ranks call it, the first one writes. Raises UserError if the training cannot be
    computed as configured, if the folder holds a run with other settings, or if the disk is full.
    """
    ranks = Ranks()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if error := why_not(preset.pretrain, preset.model, ranks.count, device):
        raise error
    if restart:
        restart()
    started, written = time.monotonic(), disk_full_is_a_user_error(stage.folder)
    if manifest := ranks.first(written(lambda: begin(stage, preset, restart is not None, models or {}))):
        return manifest
    with disk_full_is_a_user_error(stage.folder), marked_as_running(stage.folder):
        stage.counts = train() | ({"models": models} if models else {})
        return ranks.first(written(lambda: stage.finish(stage.folder, time.monotonic() - started)))


def begin(stage: Stage, preset: Preset, restart: bool, models: Mapping[str, Mapping[str, Any]]) -> Manifest | None:
    """Makes the folder ready to be trained in; the manifest, if there is nothing left to train."""
    if restart:
        throw_away(stage.folder)
    if manifest := stage.done():
        return manifest
    claim(stage)
    for unfinished in stage.folder.glob(".checkpoint-*.partial"):  # of a process that was killed while it wrote one
        shutil.rmtree(unfinished)
    write_atomically(stage.folder / PRESET, yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False))
    if models:
        write_atomically(stage.folder / MODELS, json.dumps(models, indent=2) + "\n")
    return None


def throw_away(folder: Path) -> None:
    """Deletes a training. Raises UserError if the path holds anything else."""
    is_one = (folder / SETTINGS).exists() or not folder.exists()
    if not is_one and not (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        raise UserError(f"--restart throws a training away, and {folder} is none", "give another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)


def spare(folder: Path, given: Mapping[str, Path | None]) -> None:
    """Raises UserError if throwing a training away would take along a checkpoint that was given for the new one.

    given: option → checkpoint.
    """
    for option, path in given.items():
        if path and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--restart would throw away {path}, which {option} names", "give another folder with --out")


def claim(stage: Stage) -> None:
    """Records what the folder is a run of. Raises UserError if it is a run of something else, saying what differs."""
    path = stage.folder / SETTINGS
    settings = {"config": stage.config, "inputs": stage.inputs}
    if not path.exists():
        stage.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged", "start the run anew with --restart") from error
    differing = [
        change.partition(" ")[0] if change.startswith("inputs.") else change.removeprefix("config.")
        for change in differences(before, json.loads(json.dumps(settings)))
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{stage.folder} holds a run with other settings ({', '.join(differing[:3])}{more})",
            "give another folder with --out, or throw that training away with --restart",
        )


def differences(before: Any, now: Any) -> list[str]:
    """`key before → now` for each dotted key that two nested mappings, as read from JSON, do not share."""
    return [f"{key} {old} → {new}" for key, (old, new) in sorted(differing(flat(before), flat(now)).items())]
