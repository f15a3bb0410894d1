"""Pretraining: the stage `<run>/pretrain`.

The folder grows in place, since a killed run is to be resumed from it: `settings.json` says what it is a run of,
`preset.yaml` with which preset, `budget.json` how long it is, `checkpoint-<step>/` where it stands. The manifest comes last.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from codelm.config.preset import Preset
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.models import build_model, parameter_count
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, disk_full_is_a_user_error, write_atomically
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer
from training.budget import DEFAULT_TOKENS_PER_PARAMETER
from training.data import PackedSamples
from training.engine import Engine
from training.loop import Loop
from training.optimizers import build_optimizer

SETTINGS = "settings.json"
PRESET = "preset.yaml"
OPERATIONAL: Any = {"engine": True, "watch": {"log_every", "checkpoint_seconds", "keep_checkpoints"}}
"""Settings that may change when a run is resumed: the weights do not depend on them."""


def pretrain(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Trains to the end of the budget, from the newest checkpoint if there is one.

    tokens, tokenizer: the stage folders. restart: throw away what another or the same run left in `folder`. say: hears
    the few things worth a line. Raises UserError if the folder holds a run with other settings or a damaged checkpoint,
    KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    identity = {"model": preset.model.model_dump(), "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL)}
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    stage = Stage(
        folder, identity, inputs, preset.pretrain.seed, libraries=("torch", "transformers", "accelerate", "tokenizers", "numpy")
    )
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    if manifest := stage.done():
        return manifest
    started = time.monotonic()
    with disk_full_is_a_user_error(folder):
        claim(folder, stage)
        write_atomically(folder / PRESET, yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False))
        counts = loop(folder, preset, tokens, tokenizer, progress, say).to_the_end()
        stage.counts = {"parameters": parameter_count(preset.model)} | counts
        return stage.finish(folder, time.monotonic() - started)


def loop(folder: Path, preset: Preset, tokens: Path, tokenizer: Path, progress: Progress, say: Callable[[str], None]) -> Loop:
    """The loop of a pretraining run: a fresh model on the token shards; 20 tokens per parameter if no budget is given."""
    config, vocabulary = preset.pretrain, Tokenizer(tokenizer / TOKENIZER_FILE)
    if config.tokens is None and config.minutes is None:
        config = config.model_copy(update={"tokens": DEFAULT_TOKENS_PER_PARAMETER * parameter_count(preset.model)})
    samples = PackedSamples(open_shard(tokens, "train"), vocabulary, config.fim, preset.model.context_length, config.seed)
    model = build_model(preset.model, vocabulary.fim.endoftext, vocabulary.fim.fim_pad, config.seed)
    engine = Engine(model, build_optimizer(model, config), config)
    return Loop(folder, config, engine, samples, open_shard(tokens, "valid"), vocabulary, progress, say)


def claim(folder: Path, stage: Stage) -> None:
    """Records what the folder is a run of. Raises UserError if it is a run of something else, saying what differs."""
    path = folder / SETTINGS
    settings = {"config": stage.config, "inputs": stage.inputs}
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = dict(flat(json.loads(path.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise UserError(f"{path} is damaged", "start the run anew with --restart") from error
    now = dict(flat(json.loads(json.dumps(settings))))
    differing = [
        key if key.startswith("inputs.") else f"{key.removeprefix('config.')} {before.get(key)} → {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(differing[:3])})",
            "give another folder with --run, or throw that training away with --restart",
        )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested mapping as dotted keys and values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
