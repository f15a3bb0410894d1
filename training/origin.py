"""What a user gives a run to begin with or to learn from, tokenizer and checkpoints: whether it fits, what is told of it."""

import json
from pathlib import Path
from typing import Any

from codelm.checkpoints import tokenizer_of
from codelm.config.model import ModelConfig
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.export.restore import SOURCE
from codelm.models import check_weights_fit, weights_sha256
from codelm.run_folder import MODELS, PRESET, STATE, found, step_of
from codelm.stage import MANIFEST, Manifest, file_sha256
from codelm.tokenizer import FILE as TOKENIZER_FILE
from training.budget import Budget
from training.schedule import learning_rate_share, warmup_steps

OF_ONE_RUN = {"tokens": None, "minutes": None, "watch": {"early_stop": {"plateau": None, "divergence": None, "floor": None}}}
"""What is not taken over from the training of a checkpoint: how long it was to be, and what would have ended it."""


ALL_BUT_GONE = 0.02
"""A share of the peak learning rate with which a training learns next to nothing."""


def check_vocabulary(model: ModelConfig, entries: int) -> None:
    """Raises UserError if the tokenizer of the run is not the one that the model is for."""
    if entries != model.vocab_size:
        raise UserError(
            f"the run's tokenizer has {entries:,} entries, the model wants {model.vocab_size:,}",
            "train another one with `codelm tokenizer train --preset …`, in a run folder of its own",
        )


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


def preset_of(path: Path) -> Preset | None:
    """The preset that a checkpoint was trained with, but for OF_ONE_RUN: beside its weights, or of the folder of its training.

    None if there is none. Raises UserError if it is malformed.
    """
    preset = next((preset for preset in (path / PRESET, path.parent / PRESET) if preset.is_file()), None)
    return load_preset(str(preset)).with_changes({"pretrain": OF_ONE_RUN}) if preset else None


def described(path: Path) -> dict[str, Any]:
    """What the record of a run says of a checkpoint: "name" and "sha256" of its weights, and "models", if its own training had.

    If it was read back from a GGUF, those of that file, with the "trained_tokens" and "corpus_fingerprint" of its model. Raises
    UserError if it has no weights.
    """
    if (path / MANIFEST).is_file():
        manifest = Manifest.read(path)
        return {**manifest.counts, "sha256": manifest.inputs[SOURCE]}
    told = {"name": f"{path.parent.name}/{path.name}", "sha256": weights_sha256(path)}
    models = path.parent / MODELS
    return told | ({"models": json.loads(models.read_text(encoding="utf-8"))} if models.is_file() else {})


def exported_as(path: Path) -> str | None:
    """The `weights_sha256` of the bundles that are made of a checkpoint: an adapter upon it is for them.

    None if it was read back from a GGUF that does not tell. Raises UserError if it has no weights.
    """
    if (path / MANIFEST).is_file():
        known: str | None = Manifest.read(path).counts.get("weights_sha256")
        return known
    return weights_sha256(path)


def continued(start: Path, tokens: int | None) -> Preset:
    """The preset of a pretraining that goes on from one of its checkpoints.

    tokens: for how long the learning rate is to fall from here on, from where it stands; None: to the end that the pretraining
    had, by its own schedule. Raises UserError if `start` is no checkpoint of a pretraining, or if its rate has fallen already.
    """
    if not (start.parent / PRESET).is_file() or start not in found(start.parent):
        raise UserError(f"{start} is no checkpoint in the folder of its training", "give --from one that is")
    preset = load_preset(str(start.parent / PRESET))
    first, per_step, budget = step_of(start), tokens_per_step(preset), Budget.read(start.parent)
    if tokens is not None:
        steps = first + Budget.of_tokens(tokens, per_step).steps
        share = learning_rate_share(first - 1, budget.steps, preset.pretrain) if budget else 1.0
        if budget and first <= warmup_steps(budget.steps, preset.pretrain):
            share = 1.0  # it goes on to rise
        if share < ALL_BUT_GONE:
            raise UserError(
                f"the learning rate of {start} has fallen to {share:.1%} of its peak: there is nothing left to fall",
                f"give --from a checkpoint from before that, or begin afresh with --init {start}",
            )
        rates = {name: share * getattr(preset.pretrain, name) for name in ("learning_rate", "muon_learning_rate")}
        falls = {"schedule": "wsd", "decay_share": (steps - first) / steps}
        return preset.with_training(tokens=steps * per_step, **falls, **(rates if share < 1 else {}))
    if budget is None:
        raise UserError(f"{start.parent} does not tell how long its training was to be", "give --tokens")
    return preset.with_training(tokens=budget.steps * per_step)


def taken_up(start: Path, preset: Preset, tokenizer: str) -> str:
    """What identifies a checkpoint whose run another one goes on with: the SHA-256 of its state.

    tokenizer: the fingerprint of the run's own. Raises UserError if the checkpoint does not fit, or if nothing is left to
    train.
    """
    check_tokenizer(start, tokenizer, "--from", must_be_known=True)
    check_weights_fit(start, preset.model)
    if preset.pretrain.tokens is None:
        raise UserError("what goes on from a checkpoint is as long as its tokens, not its minutes", "give --tokens")
    before = load_preset(str(start.parent / PRESET))
    for name, was, is_ in (
        ("pretrain.optimizer", before.pretrain.optimizer, preset.pretrain.optimizer),
        ("pretrain.batch_size", before.pretrain.batch_size, preset.pretrain.batch_size),
        ("model.context_length", before.model.context_length, preset.model.context_length),
    ):
        if was != is_:
            raise UserError(
                f"{name} was {was} in the training of {start}, whose optimiser and place in the data go on",
                f"leave it so, or begin afresh with --init {start}",
            )
    first, steps = step_of(start), steps_of(preset)
    if first >= steps:
        raise UserError(
            f"--from is the checkpoint after step {first:,}, and the run ends after step {steps:,}",
            "give an earlier checkpoint, or --tokens for how long to go on",
        )
    return file_sha256(start / STATE)


def steps_of(preset: Preset) -> int:
    """Steps of the whole run, by its token budget."""
    assert preset.pretrain.tokens is not None
    return Budget.of_tokens(preset.pretrain.tokens, tokens_per_step(preset)).steps


def tokens_per_step(preset: Preset) -> int:
    """Tokens of a batch."""
    return preset.pretrain.batch_size * preset.model.context_length
