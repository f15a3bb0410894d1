"""The trainings below a folder, as far as their files tell; loads no torch, changes nothing, and no file can break it."""

import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from codelm.config.preset import load_preset, names
from codelm.config.settings import differing, flat
from codelm.errors import UserError
from codelm.run_folder import BEST, BUDGET, PRESET, SETTINGS, STATE, found, is_running, step_of
from codelm.stage import MANIFEST, Manifest
from training import metrics
from training.metrics import BITS_PER_BYTE, EDIT_SIMILARITY, EXACT_MATCH

State = Literal["running", "finished", "interrupted", "broken"]
NO_TRAINING = {"tensorboard", "wandb", "node_modules", "__pycache__"}
FINISHED_STAGES = {"corpus", "tokenizer", "tokens", "evaluate", "export"}
"""Folders with thousands of files and no training in them."""
RECENT = 20
"""Rows whose median is the speed of a run."""


@dataclass(frozen=True)
class Run:
    """One training, as it lies in its folder."""

    folder: Path
    name: str
    """of the run folder that it belongs to"""
    settings: dict[str, Any]
    preset: dict[str, Any]
    budget: dict[str, Any]
    rows: list[dict[str, Any]]
    checkpoints: list[Path]
    best: dict[str, Any]
    manifest: Manifest | None
    problems: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """What kind of training it is: pretrain, distill, lora …"""
        return self.manifest.stage if self.manifest else self.folder.name

    @cached_property
    def state(self) -> State:
        """A run that goes on is not broken yet."""
        if is_running(self.folder):
            return "running"
        if self.problems:
            return "broken"
        return "finished" if self.manifest else "interrupted"

    @property
    def stopped(self) -> str | None:
        """The rule that ended it before its budget, and why."""
        stop = self.manifest.counts.get("stopped") if self.manifest else None
        return f"{stop['rule']}: {stop['why']}" if isinstance(stop, dict) else None

    @property
    def steps(self) -> int:
        """Done and known of."""
        return max([self.rows[-1]["step"] if self.rows else 0, *map(step_of, self.checkpoints)])

    @property
    def seconds(self) -> float | None:
        """That it has trained for, evaluations and checkpoints included."""
        return metrics.last(self.rows, "seconds")

    @property
    def tokens_per_second(self) -> float | None:
        """The median of the newest rows."""
        speeds = (row["tokens_per_second"] for row in reversed(self.rows) if "tokens_per_second" in row)
        return statistics.median(newest) if (newest := list(itertools.islice(speeds, RECENT))) else None

    @property
    def seconds_left(self) -> float | None:
        """Of training at its newest speed; None if that is not known."""
        speed, tokens = self.tokens_per_second, self.budget.get("tokens")
        if not speed or not tokens:
            return None
        return max(0.0, tokens - (metrics.last(self.rows, "tokens") or 0)) / speed

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of what it was worth on held-out files."""
        return [row for row in self.rows if BITS_PER_BYTE in row]

    @property
    def changed(self) -> float:
        """When something was last written, in seconds since 1970."""
        paths = (self.folder / metrics.FILE, self.folder / SETTINGS)
        return max((path.stat().st_mtime for path in paths if there(path)), default=0.0)

    def summary(self) -> dict[str, Any]:
        """Its row in a list of runs."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "preset": self.preset.get("name"),
            "stage": self.stage,
            "state": self.state,
            "problems": self.problems,
            "stopped": self.stopped,
            "steps": self.steps,
            "steps_planned": self.budget.get("steps"),
            "tokens": metrics.last(self.rows, "tokens") or 0,
            "loss": metrics.last(self.rows, "loss"),
            "bits_per_byte": metrics.last(self.rows, BITS_PER_BYTE),
            "exact_match": metrics.last(self.rows, EXACT_MATCH),
            "edit_similarity": metrics.last(self.rows, EDIT_SIMILARITY),
            "tokens_per_second": self.tokens_per_second,
            "mfu": metrics.last(self.rows, "mfu"),
            "seconds": self.seconds,
            "age_seconds": round(time.time() - self.changed, 1),
        }

    def files(self) -> list[str]:
        """What lies in its folder, with sizes; a folder counts as one."""
        told = []
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith("."):
                continue
            inside = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in inside)
            told.append(f"{path.name}{'' if path.is_file() else '/'} {size / 1e6:,.1f} MB")
        return told

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from those of the preset that it is named after: key → (the preset's, its own)."""
        name = self.preset.get("name")
        if name not in names():
            return {}
        original, own = flat(load_preset(str(name)).model_dump(mode="json")), flat(self.preset)
        return {key: pair for key, pair in differing(original, own).items() if key in own}


def read_run(folder: Path, name: str | None = None) -> Run:
    """What a training's folder tells; what cannot be read of it stands in `problems`."""
    problems: list[str] = []

    def mapping(path: Path, load: Any = json.loads, kind: Any = object) -> dict[str, Any]:
        try:
            value = load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            problems.append(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
            return {}
        if not isinstance(value, dict):
            problems.append(f"{path.name} is no mapping")
            return {}
        if not all(isinstance(inner, kind) for inner in value.values()):
            problems.append(f"{path.name} holds what does not belong there")
            return {}
        return value

    settings, preset = mapping(folder / SETTINGS), mapping(folder / PRESET, yaml.safe_load)
    budget, best = mapping(folder / BUDGET, kind=int | float | None), mapping(folder / BEST, kind=int | float | str)
    rows = read_rows(folder, problems)
    checkpoints = found(folder)
    if checkpoints:
        files = mapping(checkpoints[-1] / STATE).get("files")
        lacks = [name for name in files if not (checkpoints[-1] / name).is_file()] if isinstance(files, dict) else [STATE]
        if lacks:
            problems.append(f"{checkpoints[-1].name} lacks {', '.join(lacks)}")
    manifest = None
    if there(folder / MANIFEST):
        try:
            manifest = Manifest.read(folder)
        except UserError as error:
            problems.append(error.message.replace(f"{folder}/", ""))
    return Run(folder, name or name_of_run(folder), settings, preset, budget, rows, checkpoints, best, manifest, problems)


def followed(run: Run, rows: list[dict[str, Any]]) -> Run:
    """A run that goes on, with its newest rows and checkpoints."""
    try:
        best = json.loads((run.folder / BEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        best = None
    return replace(run, rows=rows, checkpoints=found(run.folder), best=best if isinstance(best, dict) else run.best)


def read_rows(folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The log; one that begins with no row is a problem."""
    try:
        rows = metrics.read(folder)
        if not rows and there(folder / metrics.FILE) and (folder / metrics.FILE).stat().st_size > 0:
            problems.append(f"{metrics.FILE} begins with no row")
    except OSError as error:
        problems.append(f"{metrics.FILE} cannot be read ({error.strerror})")
        return []
    return rows


def name_of_run(folder: Path) -> str:
    """The run folder's name of a training."""
    return folder.resolve().parent.name


def there(path: Path) -> bool:
    """Whether a file or folder is there and may be seen."""
    try:
        return path.exists()
    except OSError:
        return False


def is_training(folder: Path) -> bool:
    """Whether a folder is that of a training; settings.json alone is a name that others use too."""
    return there(folder / SETTINGS) and any(there(folder / name) for name in (PRESET, BUDGET, metrics.FILE, MANIFEST))


def folders(root: Path) -> Iterator[Path]:
    """The trainings' folders in and below `root`, by name."""
    for path, children, _files in os.walk(root):
        here = Path(path)
        if is_training(here):
            children.clear()
            yield here
            continue
        children[:] = sorted(
            name
            for name in children
            if not name.startswith(".")
            and name not in NO_TRAINING
            and not (name in FINISHED_STAGES and (here / name / MANIFEST).exists())
        )


PRETRAIN = "pretrain"
"""The folder of a run that is meant where only the run is named."""


def find_runs(root: Path) -> list[Run]:
    """All trainings in and below a folder, the newest first. Raises UserError if there is no such folder."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder", "give a folder that holds runs")
    runs = []
    for folder in folders(root):
        parent = folder.parent.relative_to(root) if folder != root else Path()
        runs.append(read_run(folder, None if parent == Path() else parent.as_posix()))
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def the_run(path: Path) -> Run:
    """The training in a folder: itself, the run's pretraining, or the only one below it.

    Raises UserError if there are none, or several and no pretraining.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder", "give the folder of a run")
    inside = list(folders(path))
    if not inside:
        raise UserError(f"{path} holds no training", "give the folder of a run, such as `codelm runs list` shows")
    if path / PRETRAIN in inside:
        return read_run(path / PRETRAIN)
    if len(inside) > 1:
        some = ", ".join(folder.relative_to(path).as_posix() for folder in inside[:5])
        raise UserError(f"{path} holds {len(inside)} trainings ({some})", "give the folder of one of them")
    return read_run(inside[0])


def differences(runs: list[Run]) -> dict[str, list[Any]]:
    """Settings in which runs differ: key → the value of each, None where it has none."""
    settings = [
        flat(run.preset) | {key: str(value)[:12] for key, value in flat({"inputs": run.settings.get("inputs")}).items()}
        for run in runs
    ]
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [one.get(key) for one in settings] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}
