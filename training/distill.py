"""Distillation: the stage `<run>/distill`, in which a student learns from a teacher while its learning rate falls."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from codelm import checkpoints
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.models import parameter_count
from codelm.progress import Progress, silent
from codelm.run_folder import PRESET, found, step_of
from codelm.stage import Manifest, Stage
from training import origin, pretrain
from training.budget import Budget
from training.data import Sample
from training.distill_loss import Targets
from training.distill_model import DistillModel, TaughtSamples
from training.loop import Loop
from training.schedule import decay_steps
from training.stage import LIBRARIES, OPERATIONAL, run_stage, spare
from training.target_cache import TargetCache, room_for
from training.teacher import Teacher


def distill(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    teacher: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
    start: Path | None = None,
    cache: Path | None = None,
) -> Manifest:
    """Trains a student to the end of its budget, by its teacher's distribution where `preset.distill` says so.

    tokens, tokenizer: the stage folders. teacher: a checkpoint, or a folder that holds checkpoints. start: a checkpoint of
    a pretraining that is taken up as if it were resumed (`origin.continued` gives the preset); None: a fresh student. cache: a
    folder for the teacher's targets; None: the teacher runs along. restart, say: as in `pretrain`.

    Raises UserError if the teacher or the checkpoint does not fit, if the folder holds a run with other settings or the
    cache targets of something else; KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    preset = pretrain.budgeted(preset)
    if preset.pretrain.tokens is None:
        raise UserError("a distillation is as long as its tokens, not its minutes", "give --tokens")
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    origin.check_vocabulary(preset.model, Manifest.read(tokenizer).counts["vocab_size"])
    teacher = checkpoints.given(teacher, "--teacher")
    origin.check_tokenizer(teacher, inputs["tokenizer"], "--teacher", must_be_known=True)
    if restart:
        spare(folder, {"--teacher": teacher, "--from": start})
    models = {"teacher": origin.described(teacher)}
    inputs["teacher"] = models["teacher"]["sha256"]
    first = 0
    if start is not None:
        inputs["from"] = origin.taken_up(start, preset, inputs["tokenizer"])
        models["from"] = origin.described(start)
        first = step_of(start)
    taught_from = first_taught_step(preset, first)
    identity = {
        "model": preset.model.model_dump(),
        "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL),
        "distill": preset.distill.model_dump(),
    }
    stage = Stage(folder, identity, inputs, preset.pretrain.seed, LIBRARIES)

    def train() -> dict[str, Any]:
        loop = taught_loop(folder, preset, tokens, tokenizer, teacher, taught_from, cache, start, progress, say)
        facts = {"parameters": parameter_count(preset.model), "first_step": first, "taught_from_step": taught_from}
        return facts | loop.to_the_end()

    before_restart = partial(pretrain.check_data, preset, tokens, tokenizer) if restart else None
    return run_stage(stage, preset, train, before_restart, models)


def taught_loop(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    teacher: Path,
    taught_from: int,
    cache: Path | None,
    start: Path | None,
    progress: Progress,
    say: Callable[[str], None],
) -> Loop:
    """The loop of a distillation, with the teacher's targets in their cache, or with the teacher itself."""
    model, distill = preset.model, preset.distill
    alive = Teacher(teacher, distill, model.vocab_size, model.context_length)
    objective = functools.partial(DistillModel, distill=distill, teacher=None if cache else alive)
    loop = pretrain.loop(folder, preset, tokens, tokenizer, progress, say, objective=objective, kind=TaughtSamples, start=start)
    alive.prepare(loop.engine)
    samples = loop.samples
    assert isinstance(samples, TaughtSamples)
    if distill.alpha:
        steps, batch = origin.steps_of(preset), preset.pretrain.batch_size
        first, last = taught_from * batch, steps * batch
        if cache:
            anneal_from = None
            if preset.pretrain.data.anneal:
                anneal_from = (steps - decay_steps(steps, preset.pretrain)) * batch
                samples.anneal_from = anneal_from
            identity = {
                "teacher": origin.described(teacher)["sha256"],
                "tokens": Manifest.read(tokens).fingerprint,
                "tokenizer": Manifest.read(tokenizer).fingerprint,
                "context_length": model.context_length,
                "anneal_from": anneal_from,
                **preset.pretrain.model_dump(mode="json", include={"seed", "fim", "data"}),
                **distill.model_dump(mode="json", include={"top_k", "temperature"}),
            }
            samples.cache = TargetCache(cache, identity, model.context_length, alive.k, model.vocab_size)
            fill(samples.cache, loop, alive, first, last)
        samples.taught_from = first
    return loop


def fill(cache: TargetCache, loop: Loop, teacher: Teacher, first: int, last: int) -> None:
    """Has the teacher read what is missing of samples first … last − 1; several ranks share it out."""
    engine = loop.engine
    engine.world.first(cache.claim)
    if missing := cache.missing(first, last):
        loop.say(room_for(cache.folder, sum(shard.last - shard.first for shard in missing) * cache.row.itemsize))

    def teach(batch: Sample) -> Targets:
        read, documents = engine.inputs(batch)
        with engine.autocast():
            return teacher(read.ids, None if documents is None else read.positions, documents)

    cache.fill(missing[engine.rank :: engine.ranks], loop.samples, teach, loop.config.micro_batch_size, loop.progress)
    engine.agree()
    cache.verify(first, last)


def first_taught_step(preset: Preset, first: int) -> int:
    """The step at which the teacher begins to speak, in a run that begins at step `first`.

    Raises UserError if the rate never falls although it is to speak while it does.
    """
    steps = origin.steps_of(preset)
    if preset.distill.phase == "all":
        return first
    decay = decay_steps(steps, preset.pretrain)
    if not decay:
        raise UserError(
            f"schedule {preset.pretrain.schedule} with decay_share {preset.pretrain.decay_share} has no decay phase in which"
            " the teacher could speak",
            "give --set pretrain.schedule=wsd, or --set distill.phase=all",
        )
    return max(first, steps - decay)


def stable_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a pretraining before its learning rate begins to fall. Raises UserError if there is none."""
    if not (folder / PRESET).is_file():
        raise UserError(f"{folder} holds no pretraining", "pretrain first, or give --student or --from")
    preset, budget = load_preset(str(folder / PRESET)), Budget.read(folder)
    decay = decay_steps(budget.steps, preset.pretrain) if budget else 0
    stable = [path for path in found(folder) if budget and step_of(path) <= budget.steps - decay]
    if not decay or not stable:
        raise UserError(
            f"{folder} holds no checkpoint from before its learning rate fell",
            "give one with --from and the length of the distillation with --tokens, or a fresh student with --student",
        )
    checkpoints.verify(stable[-1])
    return stable[-1]
