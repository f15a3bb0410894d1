"""The folder of a training: what lies where in it, for those who train and, without loading torch, for those who look on."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

SETTINGS = "settings.json"
"""What the folder is a run of."""
PRESET = "preset.yaml"
MODELS = "models.json"
"""Which models a run begins with or learns from, if any."""
BUDGET = "budget.json"
BEST = "best.json"
"""Which checkpoint is the best by infilling."""
PLOT = "loss.png"
NOT_FINITE = "not_finite.json"
"""Which step broke the model, and what it had read."""
PREFIX = "checkpoint-"
STATE = "state.json"
"""In a checkpoint: the step, and the SHA-256 of the other files."""

AVERAGE = "average"
"""In a checkpoint: the running mean of the weights, if one is kept, as weights of their own."""


def name_of(step: int) -> str:
    """The folder of the checkpoint after a step."""
    return f"{PREFIX}{step}"


def step_of(checkpoint: Path) -> int:
    """The steps that were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def found(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()), key=step_of)


@contextlib.contextmanager
def marked_as_running(folder: Path) -> Iterator[None]:
    """Others can tell that the run in a folder goes on: the system takes the mark away when the process dies."""
    with (folder / SETTINGS).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # shared, for all ranks have it
        yield


def is_running(folder: Path) -> bool:
    """Whether a process of this machine is training in a folder."""
    try:
        with (folder / SETTINGS).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
