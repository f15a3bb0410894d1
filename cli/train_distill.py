"""`codelm train distill`: a student learns from a teacher."""

from pathlib import Path
from typing import Annotated

import typer

from cli.train_shared import Ranks, Restart, Set, summary
from codelm.errors import UserError


def distill(
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, with its tokens.")],
    teacher: Annotated[
        Path,
        typer.Option(metavar="CKPT|FILE.gguf", help="A checkpoint or export on the same tokenizer; it may be of any shape."),
    ],
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CKPT", help="Take this checkpoint up. Default: RUN/pretrain's last one before its rate falls."
        ),
    ] = None,
    student: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Train a fresh student of this preset instead.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a fresh student's training; with --from, over which its rate is to fall.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what the teacher says here, instead of running it along.")
    ] = None,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the training goes. Default: RUN/distill.")] = None,
    ranks: Ranks = 1,
    restart: Restart = False,
) -> None:
    """Learn from a teacher's distribution while the learning rate falls, into RUN/distill.

    The usual way: pretrain with --set pretrain.schedule=wsd, whose checkpoint before the decay is kept, and run that decay
    again with a teacher. An interrupted distillation goes on where it stopped, and so does an interrupted cache.

    Example: codelm train distill --run runs/mine --teacher runs/large/pretrain
    """
    from cli.ranks import launched_for
    from cli.stages import RunFolder, training
    from codelm import checkpoints
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset, load_preset
    from training import origin
    from training.distill import stable_checkpoint

    if student is not None and start is not None:
        raise UserError("--student and --from are both given", "give one: a fresh student, or a checkpoint to take up")
    if launched_for(ranks):
        return
    changes = parse_settings(settings or [], Preset)
    with training(run) as display:
        folder = RunFolder(run, display)
        folder.distill = out or folder.distill
        if student is not None:
            preset = load_preset(student).with_changes(changes).with_training(tokens=tokens)
        else:
            start = checkpoints.given(start, "--from") if start else stable_checkpoint(folder.pretrain)
            preset = origin.continued(start, tokens).with_changes(changes)
        counts = folder.run_distill(preset, folder.given(teacher, "--teacher"), start, cache, restart).counts
    heard = f"heard the teacher from step {counts['taught_from_step']:,} to {counts['steps']:,}"
    typer.echo(f"{heard}; {summary(folder.distill, counts)}")
