"""`codelm train stages`: progressive training, stage by stage; without --execute, the plan of it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.train_plan import DEFAULT, Config, Devices, Set, Shape, Stages, configuration, write
from codelm.errors import UserError

if TYPE_CHECKING:
    from codelm.config.stages import Stage, StagesConfig
    from training.stages.review import Review, Step
    from training.stages.rounds import Round

GATE, INTERRUPTED = 1, 130
"""Exit codes of stages that end at a gate, and of those that were asked to end."""
NOT_YET = "skipped: fine-tuning is not part of this version"


def stages(
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder, with its tokens.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Train; without it, the plan is shown.")] = False,
    stages: Stages = None,
    config: Config = DEFAULT,
    settings: Set = None,
    shape: Shape = "budget",
    number: Annotated[
        int | None,
        typer.Option("--round", min=1, help="Of each stage. Default: the newest; one more begins beside those there are."),
    ] = None,
    resume_from: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT|FILE.gguf|default", help="Begin the first of the stages with these weights, as --init of pretrain."
        ),
    ] = None,
    devices: Devices = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Train for 20 seconds first, to have a plan to hold against.")
    ] = True,
) -> None:
    """Pretrain → fine-tune → evaluate → review, stage by stage, each into RUN/stages/ID-NAME/round-K.

    Stages share the tokens of the run; each is held against the one before. It ends where a gate is not passed (exit code 1).
    A killed or interrupted run goes on where it stopped with the same command.

    Example: codelm train stages --stages 0,1

    codelm train stages --execute --stages 0 --run runs/mine --set pretrain.tokens=1e8
    """
    from cli.stages import read_back
    from codelm.stage import lock
    from training.stages.rounds import shut_gate

    if not execute:
        planned = configuration(config, None, stages, settings, None, devices)
        show_plan(planned, planned.chosen(stages), shape, run)
        return
    if run is None:
        raise UserError("--execute needs a run folder", "give --run RUN, with a corpus and its tokens")
    if not (run / "tokens").is_dir():
        raise UserError(f"{run} has no tokens", f"make them with `codelm corpus build … --run {run}` and `tokenizer train`")
    if not (run / "corpus").is_dir():
        raise UserError(f"{run} has no corpus to evaluate on", f"make it with `codelm corpus build … --run {run}`")
    here = configuration(config, None, stages, settings, "here", devices or gpus())
    chosen = here.chosen(stages)
    options = [f"--run {shlex.quote(str(run))}"]
    options += [f"--config {shlex.quote(config)}"] if config != DEFAULT else []
    options += [f"--shape {shape}"] if shape != "budget" else []
    options += [f"--resume-from {shlex.quote(str(resume_from))}"] if resume_from else []
    options += [f"--devices {devices}"] if devices else []
    options += [f"--set {shlex.quote(setting)}" for setting in settings or []]
    with lock(run / "stages"):
        resume_from = read_back(resume_from, run) if resume_from else None
        for place, one in enumerate(refused_now_or_never(here, chosen, shape, run, number, resume_from)):
            if one.finished:
                typer.echo(f"stage {one.stage.id}: {one.folder.name} is finished, skipped; see {one.folder / 'review.html'}")
            else:
                begin(here, one, shape, run, resume_from if place == 0 else None, measure, options)
                finish(here, one, run)
            if failed := shut_gate(here, one.stage, run):
                said = "; ".join(failed)
                typer.echo(f"stage {one.stage.id}: the gate is not passed ({said}); it ends here", err=True)
                raise typer.Exit(GATE)


def refused_now_or_never(
    config: "StagesConfig", chosen: list["Stage"], shape: Any, run: Path, number: int | None, resume_from: Path | None
) -> list["Round"]:
    """The rounds that are meant. Raises UserError for whatever of them cannot work, before the first one begins."""
    from training.plan.plan import make_plan
    from training.stages.rounds import check_order, check_shapes, choose

    check_order(config, chosen, run)
    check_shapes(config, chosen[resume_from is not None :], shape, run)
    rounds = [choose(stage, run, number) for stage in chosen]
    for place, one in enumerate(rounds):
        init = resume_from if place == 0 else None
        if one.begun:
            one.check(one.stage.resolved(shape), init)
        elif init is not None:
            check_init(init, one.stage.resolved(shape), one.stage)
        if one.finished and one.identity.data not in (None, data_of(run)):
            typer.echo(
                f"stage {one.stage.id}: {one.folder.name} has read other tokens than those of {run} now; its bits per byte are"
                " of other held-out files, too",
                err=True,
            )
    make_plan(config.description, [one.stage for one in rounds if not one.finished], shape, run, measured=False)
    return rounds


def data_of(run: Path) -> str:
    """The identity of a run's tokens."""
    from codelm.stage import Manifest

    return Manifest.read(run / "tokens").fingerprint


def show_plan(config: "StagesConfig", chosen: list["Stage"], shape: Any, run: Path | None) -> None:
    """The dry run."""
    from training.plan.plan import make_plan
    from training.stages.rounds import check_shapes

    check_shapes(config, chosen, shape, run)
    write(make_plan(config.description, chosen, shape, run, measured=False), "text", None)
    typer.echo("\nNothing has been trained; --execute does it, with --run RUN.")


def gpus() -> int:
    """The devices of this machine: its GPUs, or its processor."""
    import torch

    return max(torch.cuda.device_count(), 1)


def begin(
    config: "StagesConfig",
    one: "Round",
    shape: Any,
    run: Path,
    resume_from: Path | None,
    measure: bool,
    options: list[str],
) -> None:
    """Plans a round that is new, and records what it is; takes over what may change in one that has been begun."""
    from cli.progress import Display
    from training.plan.plan import make_plan, planned_preset
    from training.stages.rounds import before

    stage, preset = one.stage, planned_preset(one.stage, shape)
    if one.begun:
        one.go_on(preset)
        return
    earlier = before(config, stage, run)
    init = resume_from or (earlier.checkpoint if earlier and stage.continues else None)
    with Display() as display, display.stage(f"plan {stage.id}") as progress:
        plan = make_plan(config.description, [stage], shape, run, measure, progress)
    # a continued training first loses a little of what it had, as the learning rate rises again
    held = earlier is not None and stage.gate.better_than_previous and not stage.continues
    floor = earlier.review.half_bits_per_byte if earlier and held else None
    one.begin(preset, init, plan, floor, data_of(run), options)


def check_init(init: Path, preset: Any, stage: "Stage") -> None:
    """Raises UserError, naming the stage, if a checkpoint has another shape."""
    from codelm.checkpoints import given
    from codelm.models import check_weights_fit

    try:
        check_weights_fit(given(init, "--resume-from"), preset.model)
    except UserError as error:
        raise UserError(f"stage {stage.id}: {error.message}", error.fix) from error


def finish(config: "StagesConfig", one: "Round", run: Path) -> None:
    """Trains, evaluates and reviews a round, from where it stands."""
    from codelm.stage import write_atomically
    from training.stages.review import page, review
    from training.stages.rounds import REVIEW, before, rounds_of

    stage, held = one.stage, before(config, one.stage, run)
    previous = held.review.bits_per_byte if held else None
    earlier = [other.review.bits_per_byte for other in rounds_of(stage, run) if other.finished and other.number < one.number]
    steps, options = list(work(one, run)), one.identity.options
    found = review(one.plan, one.number, one.pretrain, one.evaluate, steps, stage.gate, previous, earlier, options)
    write_atomically(one.folder / "review.html", page(found, one.pretrain))
    write_atomically(one.folder / REVIEW, found.model_dump_json(indent=2) + "\n")
    typer.echo(summary(found, one.folder))


def work(one: "Round", run: Path) -> Iterator["Step"]:
    """The steps of a round; those that are done already do nothing."""
    from training.stages.review import Step

    train(one, run)
    yield Step(name="pretrain", said=f"see {one.pretrain}")
    yield Step(name="sft", said=NOT_YET if one.stage.sft.samples else "none planned")
    evaluate(one, run)
    yield Step(name="evaluate", said=f"of {one.checkpoint.name}, see {one.evaluate}")


def train(one: "Round", run: Path) -> None:
    """`codelm train pretrain` as a process of its own: its memory is its own, and it may be many ranks.

    Ctrl-C reaches it too, and it ends at the end of its step; so it does when this process is asked to end, or is killed.
    """
    from training.engine.ranks import ENDS_WITH

    command = [sys.executable, "-P", "-m", "cli.main", "train", "pretrain", "--run", str(run)]
    command += ["--preset", str(one.folder / "preset.yaml"), "--out", str(one.pretrain)]
    if one.init:
        command += ["--init", str(one.init)]
    if (ranks := one.stage.hardware.devices) > 1:
        command += ["--ranks", str(ranks)]
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        """Hands SIGTERM on. The training may have had it too, and takes only a second Ctrl-C for "at once"."""
        asked.append(number)
        process.send_signal(number)

    with subprocess.Popen(command, env=os.environ | {ENDS_WITH: str(os.getpid())}) as process:
        handler = signal.signal(signal.SIGTERM, ask)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            asked.append(signal.SIGINT)
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, handler)
    if asked and code in (0, -signal.SIGTERM):  # it was at its end, or at its very beginning
        raise typer.Exit(INTERRUPTED)
    if code < 0:
        raise UserError(
            f"stage {one.stage.id}: the training was killed by signal {-code}", "the same command goes on from its checkpoint"
        )
    if code:
        raise typer.Exit(code)  # it has said why


def evaluate(one: "Round", run: Path) -> None:
    """The scores of what the round hands on."""
    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.evaluation.evaluate import EvaluateConfig
    from codelm.evaluation.systems import TrainedModel
    from codelm.tokenizer import FILE

    with Display() as display:
        folder = RunFolder(run, display)
        folder.evaluate = one.evaluate
        config = EvaluateConfig(**one.stage.evaluation.model_dump())
        folder.run_evaluate(config, [TrainedModel(one.preset.name, one.checkpoint, folder.tokenizer / FILE)])


def summary(review: "Review", folder: Path) -> str:
    """What came of a round, in a few lines."""
    match = "" if review.exact_match is None else f", {review.exact_match:.1%} exact match"
    lines = [f"stage {review.stage} {review.name}, round {review.round}: {review.bits_per_byte:.3f} bits per byte{match}"]
    lines += [f"  gate: {line}" for line in review.failed_gates]
    for advice in review.advice:
        lines.append(f"  next: {advice.what} ({advice.why})")
        lines += [f"        {advice.command}"] if advice.command else []
    return "\n".join([*lines, f"  see {folder / 'review.html'}"])
