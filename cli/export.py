"""`codelm export`: a run's model as GGUF files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def export(
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run folder, with a finished evaluation.")],
    stage: Annotated[str, typer.Option(metavar="NAME", help="The training that is meant, such as lora.")] = "pretrain",
    average: Annotated[
        bool, typer.Option("--average", help="The running mean of the weights that the training kept (pretrain.ema).")
    ] = False,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens to serve. Default: those of the training; more are reached by YaRN.")
    ] = None,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Put the corpus's attribution index beside the files, for `codelm serve`.")
    ] = False,
) -> None:
    """Write f16, Q8_0 and Q4_K_M GGUF and a model card into DIR/export; of another stage, into DIR/export-NAME.

    With --average, which wants a `codelm evaluate --average`, into DIR/export-average.

    Example: codelm export --run runs/mine
    """
    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.models import serving_notes
    from codelm.stage import lock

    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        folder.results_of(stage, average)
        sizes = folder.run_export(context, stage, attribution, average).counts
        for note in serving_notes(folder.preset(stage).model, context):
            display.say(note)
    for name, size in sizes.items():
        typer.echo(f"{folder.export / name}  {size / 1e6:.1f} MB")
