"""`codelm evaluate`: what a run's model is worth on held-out files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def evaluate(run: Annotated[Path, typer.Option(metavar="DIR", help="The run folder, with a finished training.")]) -> None:
    """Bits per byte and single-line exact match on the validation split, into DIR/evaluate.

    Example: codelm evaluate --run runs/mine
    """
    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.stage import lock

    with lock(run, create=False), Display() as display:
        counts = RunFolder(run, display).run_evaluate().counts
    match = (
        "no line to complete" if counts["exact_match"] is None else f"{counts['exact_match']:.1%} of {counts['places']} places"
    )
    typer.echo(f"{counts['bits_per_byte']} bits per byte, single-line exact match {match}")
