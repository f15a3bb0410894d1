"""Pretraining: the stage `<run>/pretrain`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from codelm import checkpoints
from codelm.config.preset import Preset
from codelm.corpus.tokens import open_shard
from codelm.models import build_model, check_weights_fit, flops_per_token, load_model, parameter_count
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer
from training import origin
from training.budget import DEFAULT_TOKENS_PER_PARAMETER
from training.data import PackedSamples
from training.engine import Engine, LossModel, Objective
from training.loop import Loop
from training.optimizers import build_optimizer
from training.stage import LIBRARIES, OPERATIONAL, run_stage, spare


def pretrain(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
    init: Path | None = None,
    start: Path | None = None,
) -> Manifest:
    """Trains to the end of the budget, from the newest checkpoint if there is one.

    tokens, tokenizer: the stage folders. restart: throw away what another or the same run left in `folder`. say: hears
    the few things worth a line. init: a checkpoint, or a folder that holds checkpoints, whose weights the run begins with
    (the optimiser begins afresh); the model may differ from it in its context settings only. Its SHA-256
    (`origin.described`) is an input of the run. start: a checkpoint of another pretraining that is taken up as if it were
    resumed (`origin.continued` gives the preset).

    Raises UserError if the folder holds a run with other settings or a damaged checkpoint, or if `init` or `start` do not fit;
    KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    identity = {"model": preset.model.model_dump(), "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL)}
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    origin.check_vocabulary(preset.model, Manifest.read(tokenizer).counts["vocab_size"])
    models = {}
    if init is not None:
        init = checkpoints.given(init, "--init")
        origin.check_tokenizer(init, inputs["tokenizer"], "--init", must_be_known=False)
        check_weights_fit(init, preset.model)
        models["init"] = origin.described(init)
        inputs["init"] = models["init"]["sha256"]
    if restart:
        spare(folder, {"--init": init, "--from": start})
    if start is not None:
        inputs["from"] = origin.taken_up(start, budgeted(preset), inputs["tokenizer"])
        models["from"] = origin.described(start)
    stage = Stage(folder, identity, inputs, preset.pretrain.seed, LIBRARIES)

    def train() -> dict[str, Any]:
        counts = loop(folder, preset, tokens, tokenizer, progress, say, init, start=start).to_the_end()
        return {"parameters": parameter_count(preset.model)} | counts

    before_restart = partial(check_data, preset, tokens, tokenizer) if restart else None
    return run_stage(stage, preset, train, before_restart, models)


def loop(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress,
    say: Callable[[str], None],
    init: Path | None = None,
    *,
    model: Any = None,
    objective: Objective = LossModel,
    kind: type[PackedSamples] = PackedSamples,
    start: Path | None = None,
) -> Loop:
    """The loop of a run on the token shards.

    init: the checkpoint to take the weights of. model: to train instead of a fresh one. objective: what it learns. kind: of
    samples. start: as of `Loop`.
    """
    config, vocabulary = budgeted(preset).pretrain, Tokenizer(tokenizer / TOKENIZER_FILE)
    samples = samples_of(preset, tokens, vocabulary, kind)
    if model is None:
        model = build_model(preset.model, vocabulary.fim.endoftext, vocabulary.fim.fim_pad, config.seed)
    if init is not None:
        model.load_state_dict(load_model(init).state_dict())
    engine = Engine(model, build_optimizer(model, config), config, objective)
    flops = flops_per_token(preset.model)
    return Loop(folder, config, engine, samples, open_shard(tokens, "valid"), vocabulary, progress, say, flops, start)


def samples_of(preset: Preset, tokens: Path, vocabulary: Tokenizer, kind: type[PackedSamples] = PackedSamples) -> PackedSamples:
    """What a run reads. Raises UserError if the shards are damaged, or do not hold what `pretrain.data` asks for."""
    config = preset.pretrain
    return kind(open_shard(tokens, "train"), vocabulary, config.fim, preset.model.context_length, config.seed, config.data)


def check_data(preset: Preset, tokens: Path, tokenizer: Path) -> None:
    """Raises UserError if a run could not read what it is to read (`samples_of`)."""
    samples_of(preset, tokens, Tokenizer(tokenizer / TOKENIZER_FILE))


def budgeted(preset: Preset) -> Preset:
    """A preset that says how long its run is: 20 tokens per parameter, if it does not."""
    if preset.pretrain.tokens is None and preset.pretrain.minutes is None:
        return preset.with_training(tokens=DEFAULT_TOKENS_PER_PARAMETER * parameter_count(preset.model))
    return preset
