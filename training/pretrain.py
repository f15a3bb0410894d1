"""Pretraining: the stage `<run>/pretrain`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from codelm.config.preset import Preset
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.models import build_model, check_weights_fit, flops_per_token, load_model, parameter_count, weights_sha256
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer
from training import origin
from training.budget import DEFAULT_TOKENS_PER_PARAMETER
from training.data import PackedSamples
from training.engine import Engine
from training.loop import Loop
from training.optimizers import build_optimizer
from training.stage import LIBRARIES, OPERATIONAL, run_stage


def pretrain(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
    init: Path | None = None,
) -> Manifest:
    """Trains to the end of the budget, from the newest checkpoint if there is one.

    tokens, tokenizer: the stage folders. restart: throw away what another or the same run left in `folder`. say: hears
    the few things worth a line. init: a checkpoint, or a folder that holds checkpoints, whose weights the run begins with
    (the optimiser begins afresh); the model may differ from it in its context settings only. The SHA-256 of those weights
    is an input of the run.

    Raises UserError if the folder holds a run with other settings or a damaged checkpoint, or if `init` does not fit;
    KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    identity = {"model": preset.model.model_dump(), "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL)}
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    if init is not None:
        init = origin.given(init, "--init")
        origin.check_tokenizer(init, inputs["tokenizer"], "--init", must_be_known=False)
        check_weights_fit(init, preset.model)
        inputs["init"] = weights_sha256(init)
        if restart and init.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--restart would throw away {init}, which --init begins with", "give another folder with --run")
    stage = Stage(folder, identity, inputs, preset.pretrain.seed, LIBRARIES)

    def train() -> dict[str, Any]:
        counts = loop(folder, preset, tokens, tokenizer, progress, say, init).to_the_end()
        return {"parameters": parameter_count(preset.model)} | counts

    return run_stage(stage, preset, train, restart)


def loop(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress,
    say: Callable[[str], None],
    init: Path | None = None,
) -> Loop:
    """The loop of a pretraining run on the token shards; 20 tokens per parameter if no budget is given.

    init: the checkpoint to take the weights of; None: a fresh model.
    """
    config, vocabulary = preset.pretrain, Tokenizer(tokenizer / TOKENIZER_FILE)
    if config.tokens is None and config.minutes is None:
        config = config.model_copy(update={"tokens": DEFAULT_TOKENS_PER_PARAMETER * parameter_count(preset.model)})
    samples = PackedSamples(
        open_shard(tokens, "train"), vocabulary, config.fim, preset.model.context_length, config.seed, config.data
    )
    model = build_model(preset.model, vocabulary.fim.endoftext, vocabulary.fim.fim_pad, config.seed)
    if init is not None:
        model.load_state_dict(load_model(init).state_dict())
    engine = Engine(model, build_optimizer(model, config), config)
    flops = flops_per_token(preset.model)
    return Loop(folder, config, engine, samples, open_shard(tokens, "valid"), vocabulary, progress, say, flops)
