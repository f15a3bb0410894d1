"""`codelm corpus`: source code → clean, licensed, deduplicated rows."""

import typer

from cli.corpus import build, download, snapshot

app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def corpus() -> None:
    """Source code → clean, licensed, deduplicated rows, split so that validation shares no package with training."""


for command in (
    build.build,
    build.plan,
    snapshot.status,
    snapshot.licenses,
    snapshot.why,
    snapshot.verify,
    snapshot.diff,
    snapshot.remove,
    snapshot.export,
    download.download,
):
    app.command()(command)
