"""Checkpoints that a user gives for a run to begin with or to learn from: which one is meant, and whether it fits."""

import json
from pathlib import Path

from codelm.errors import UserError
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import fingerprint_of
from training import checkpoint
from training.run_folder import SETTINGS, STATE

WEIGHTS = "model.safetensors"


def given(path: Path, option: str) -> Path:
    """The checkpoint that a path means: a folder with weights, or the newest checkpoint of a training's folder.

    option: that the user gave it with. Raises UserError if there is none, or if it is damaged.
    """
    if not (path / WEIGHTS).is_file():
        newest = checkpoint.latest(path)
        if newest is None:
            raise UserError(f"{path} holds no checkpoint", f"give {option} the folder of a checkpoint")
        return newest
    if (path / STATE).exists():
        checkpoint.verify(path)
    return path


def check_tokenizer(path: Path, tokenizer: str, option: str, must_be_known: bool) -> None:
    """Raises UserError if a checkpoint was trained with another tokenizer: its weights would mean other tokens.

    tokenizer: the fingerprint of the run's own. must_be_known: refuse too what does not tell its tokenizer, as the checkpoints
    of others do not.
    """
    theirs = tokenizer_of(path)
    if theirs is None and must_be_known:
        raise UserError(
            f"{path} does not tell which tokenizer it was trained with",
            f"give {option} a checkpoint in the folder of its training, or put its {TOKENIZER_FILE} beside its weights",
        )
    if theirs is not None and theirs != tokenizer:
        raise UserError(
            f"{path} was trained with another tokenizer: its weights mean other tokens",
            f"encode the corpus with that one (`codelm tokenizer encode`), or give {option} another checkpoint",
        )


def tokenizer_of(path: Path) -> str | None:
    """The fingerprint of the tokenizer that a checkpoint was trained with, by the settings of its training or beside it."""
    try:
        settings = json.loads((path.parent / SETTINGS).read_text(encoding="utf-8"))
        return str(settings["inputs"]["tokenizer"])
    except (OSError, ValueError, KeyError):
        own = path / TOKENIZER_FILE
        return fingerprint_of(own) if own.is_file() else None
