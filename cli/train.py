"""`codelm train`: train a model on the tokens of a run."""

from pathlib import Path
from typing import Annotated

import typer

from cli.train_distill import distill
from cli.train_lora import lora
from cli.train_plan import plan
from cli.train_shared import Ranks, Restart, Set, summary
from cli.train_stages import stages

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def train() -> None:
    """Train a model on the tokens of a run."""


app.command()(plan)
app.command()(stages)


@app.command()
def pretrain(
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, with its tokens.")],
    preset: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Model and training settings.")] = "nano",
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Train this long; a measurement sets the budget.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Train on this many tokens.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Data worker processes; the samples stay the same.")] = None,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the training goes. Default: RUN/pretrain.")] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="Begin with the weights of this checkpoint, for a longer context, say.")
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

    Example: codelm train pretrain --run runs/mine --preset nano --minutes 30
    """
    from cli.ranks import launched_for
    from cli.stages import RunFolder, training
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset, load_preset

    if launched_for(ranks):
        return
    chosen = load_preset(preset).with_changes(parse_settings(settings or [], Preset))
    chosen = chosen.with_training(
        minutes=minutes,
        tokens=tokens,
        engine=None if workers is None else {"workers": workers},
        watch={"wandb": wandb_project} if wandb else None,
    )
    with training(run) as display:
        folder = RunFolder(run, display)
        folder.pretrain = out or folder.pretrain
        counts = folder.run_pretrain(chosen, restart, init).counts
    typer.echo(summary(folder.pretrain, counts))


app.command()(distill)
app.command()(lora)
