"""`codelm train`: train a model on the tokens of a run."""

from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting of the preset, such as pretrain.learning_rate=1e-3."),
]

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def train() -> None:
    """Train a model on the tokens of a run."""


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
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the training that DIR holds.")] = False,
) -> None:
    """Pretrain with fill-in-the-middle into RUN/pretrain; an interrupted run goes on where it stopped.

    Without --minutes and --tokens: 20 tokens per parameter, or what the preset says.

    Example: codelm train pretrain --run runs/mine --preset nano --minutes 30
    """
    from cli.progress import Display
    from cli.stages import RunFolder, resumable
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset, load_preset
    from codelm.stage import lock

    chosen = load_preset(preset).with_changes(parse_settings(settings or [], Preset))
    chosen = chosen.with_training(minutes=minutes, tokens=tokens, engine={} if workers is None else {"workers": workers})
    with resumable(), lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        folder.pretrain = out or folder.pretrain
        counts = folder.run_pretrain(chosen, restart, init).counts
    typer.echo(
        f"{folder.pretrain / counts['checkpoint']}: {counts['tokens']:,} tokens, {counts['epochs']} epochs,"
        f" {counts['valid_bits_per_byte']:.3f} bits per byte on held-out files; see {folder.pretrain / 'loss.png'}"
    )
