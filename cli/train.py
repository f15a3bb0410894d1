"""`codelm train`: train a model on the tokens of a run."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.train_distill import distill
from cli.train_lora import lora
from cli.train_plan import plan
from cli.train_shared import Ranks, Restart, Set, summary
from cli.train_stages import stages
from codelm.errors import UserError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def train() -> None:
    """Train a model on the tokens of a run."""


app.command()(plan)
app.command()(stages)


@app.command()
def pretrain(
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, with its tokens.")],
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.yaml", help="Model and training settings. Default: those of --init, or nano."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Train this long; a measurement sets the budget.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Train on this many tokens.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Data worker processes; the samples stay the same.")] = None,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the training goes. Default: RUN/pretrain.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT|FILE.gguf|default",
            help="Begin with the weights of this checkpoint, exported model, or codelm's own.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CKPT", help="Go on from this checkpoint of another training; the rate falls over --tokens."
        ),
    ] = None,
    ranks: Ranks = 1,
    restart: Restart = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Log to Weights & Biases besides; WANDB_MODE=offline: into DIR.")
    ] = False,
    wandb_project: Annotated[str, typer.Option(metavar="NAME", help="The project there.")] = "codelm",
) -> None:
    """Pretrain with fill-in-the-middle into RUN/pretrain; an interrupted run goes on where it stopped.

    Without --minutes and --tokens: 20 tokens per parameter, or what the preset says.

    Examples: codelm train pretrain --run runs/mine --preset nano --minutes 30

    codelm train pretrain --run runs/mine --init default --tokens 2_000_000

    codelm train pretrain --run runs/mine --from runs/mine/pretrain/checkpoint-9000 --tokens 10_000_000 --out runs/mine/early
    """
    from cli.ranks import launched_for
    from cli.stages import RunFolder, training
    from codelm import checkpoints
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset, load_preset
    from training import origin
    from training.engine import ranks as processes

    if start and (preset or minutes or init or not out):
        raise UserError(
            "--from goes on with the settings of that training, in a folder of its own",
            "give --out DIR and --tokens, and no --preset, --minutes or --init",
        )
    if launched_for(ranks):
        return
    changes = parse_settings(settings or [], Preset)
    with training(run) as display:
        folder = RunFolder(run, display)
        folder.pretrain = out or folder.pretrain
        if start:
            start = checkpoints.given(start, "--from")
            chosen = origin.continued(start, tokens)
        else:
            init = folder.given(init, "--init") if init else None
            if init and not folder.tokens.exists():
                processes.Ranks().first(partial(folder.encode_for, init))
            of_init = origin.preset_of(init) if init and not preset else None
            chosen = (of_init or load_preset(preset or "nano")).with_training(minutes=minutes, tokens=tokens)
        chosen = chosen.with_changes(changes).with_training(
            engine=None if workers is None else {"workers": workers},
            watch={"wandb": wandb_project} if wandb else None,
        )
        counts = folder.run_pretrain(chosen, restart, init, start).counts
    typer.echo(summary(folder.pretrain, counts))


app.command()(distill)
app.command()(lora)
