"""Checkpoints for those who read them: which one a path means, whether it is whole, and what is known of its model."""

import json
from pathlib import Path

from codelm.config.preset import load_preset
from codelm.corpus.read import fingerprint
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.models import served
from codelm.run_folder import PRESET, SETTINGS, STATE, found
from codelm.stage import MANIFEST, Manifest, file_sha256
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer, find, fingerprint_of

WEIGHTS = "model.safetensors"
MERGED = "merged"
"""Of a LoRA: base and adapter as one model."""
TRAININGS = ("pretrain", "distill", "lora")
"""The stages of a run that end in a checkpoint; of several, the first one is meant."""


def given(path: Path, option: str) -> Path:
    """The checkpoint that a path means: a folder with weights, or the newest one of a training's folder or of a run.

    option: that the user gave it with. Raises UserError if there is none, or if it is damaged.
    """
    training = next((path / name for name in TRAININGS if (path / name).is_dir()), path)
    checkpoint = next((folder for folder in (path, training / MERGED) if (folder / WEIGHTS).is_file()), None)
    if checkpoint is None:
        checkpoint = latest(training)
        if checkpoint is None:
            raise UserError(f"{path} holds no checkpoint", f"give {option} the folder of a checkpoint")
        if not (checkpoint / WEIGHTS).is_file():
            raise UserError(f"{training} holds an adapter without its base", "train it again, with --merge")
        return checkpoint
    if (checkpoint / STATE).exists():
        verify(checkpoint)
    return checkpoint


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


def tokenizer_of(path: Path) -> str | None:
    """The fingerprint of the tokenizer that a checkpoint was trained with, by the settings of its training or beside it."""
    try:
        settings = json.loads((path.parent / SETTINGS).read_text(encoding="utf-8"))
        return str(settings["inputs"]["tokenizer"])
    except (OSError, ValueError, KeyError):
        own = path / TOKENIZER_FILE
        return fingerprint_of(own) if own.is_file() else None


def vocabulary_of(checkpoint: Path) -> Tokenizer:
    """The tokenizer that lies beside a checkpoint or in its run. Raises UserError if there is none, or if it is another one."""
    path = find(checkpoint)
    if (trained_with := tokenizer_of(checkpoint)) and fingerprint_of(path) != trained_with:
        raise UserError(
            f"{checkpoint} was trained with another tokenizer than {path}",
            f"put its {TOKENIZER_FILE} back: what the one encodes means nothing to the other",
        )
    return Tokenizer(path)


def metadata_of(checkpoint: Path, vocabulary: Tokenizer) -> BundleMetadata | None:
    """What an export says of the model, as far as its run is there; None if it is not in the folder of its training.

    Scores are told only if they are of these weights. Raises UserError if what is there cannot be read.
    """
    training, run = checkpoint.parent, checkpoint.parent.parent
    if not (training / PRESET).is_file() or not (checkpoint / STATE).is_file():
        return None
    preset = load_preset(str(training / PRESET))
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    tokens = state["step"] * preset.pretrain.batch_size * preset.model.context_length
    evaluate = run / ("evaluate" if training.name == TRAININGS[0] else f"evaluate-{training.name}")
    weights, scores = state["files"][WEIGHTS], {}
    if (evaluate / MANIFEST).is_file():
        evaluated = Manifest.read(evaluate)
        of = evaluated.inputs.get(preset.name, "").partition(" ")[0]
        scores = evaluated.counts if of == weights else {}
    corpus = fingerprint(run / "corpus") if (run / "corpus" / MANIFEST).is_file() else ""
    as_served = preset.model_copy(update={"model": served(preset.model)})
    return BundleMetadata.of(as_served, vocabulary.sha256, corpus, weights, tokens, scores)
