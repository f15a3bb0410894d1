"""`codelm corpus`: source code → clean, licensed, deduplicated rows."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

TOP_LANGUAGES = 12


@app.callback()
def corpus() -> None:
    """Source code → clean, licensed, deduplicated rows, split so that validation shares no package with training."""


@app.command()
def build(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder; the corpus goes to DIR/corpus.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE…",
            help='Folders of source code, or "stdlib": the standard library of this Python (default).',
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.yaml", help="Settings; the options here override them.")
    ] = None,
    allow_copyleft: Annotated[
        bool, typer.Option("--allow-copyleft", help="Keep files under the GPL, LGPL and AGPL too.")
    ] = False,
    valid_share: Annotated[
        float | None, typer.Option("--valid-share", help="Share of the bytes held out for validation (0 to 0.5).")
    ] = None,
) -> None:
    """Build the corpus of a run: read, filter, deduplicate, split.

    A run whose sources and settings are unchanged is left as it is.

    Example: codelm corpus build ~/src/my-project stdlib --run runs/mine
    """
    from rich.console import Console

    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.config.corpus import CorpusConfig
    from codelm.config.load import checked, load_yaml
    from codelm.stage import MANIFEST, lock

    settings = load_yaml(config, CorpusConfig) if config else CorpusConfig()
    given: dict[str, Any] = {"sources": sources, "valid_share": valid_share}
    given = {name: value for name, value in given.items() if value is not None}
    if allow_copyleft:
        given["deny_licenses"] = []
    settings = checked(settings.model_dump() | given, CorpusConfig)

    with lock(run), Display() as display:
        stages = RunFolder(run, display)
        stood = modified(stages.corpus / MANIFEST)
        manifest = stages.build_corpus(settings)
        unchanged = stood is not None and modified(stages.corpus / MANIFEST) == stood
    console = Console()
    for part in summary(manifest.counts):
        console.print(part)
    console.print(
        f"{stages.corpus}: unchanged, nothing to do" if unchanged else f"{stages.corpus}: built in {manifest.seconds:.1f} s"
    )


def modified(path: Path) -> int | None:
    """When a file was written, in ns; None if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else None


def summary(counts: dict[str, Any]) -> list[Any]:
    """What a corpus holds and what it lacks, as tables. counts: of its manifest."""
    from rich.table import Table

    files = Table("", "files", title=f"{counts['files_kept']:,} of {counts['files_seen']:,} files kept")
    files.columns[1].justify = "right"
    for reason, count in counts["rejected"].items():
        files.add_row(f"rejected: {reason}", f"{count:,}")
    sums = Table("", "files", "MB", "tokens (estimate)")
    for column in sums.columns[1:]:
        column.justify = "right"
    for kind in ("splits", "languages", "licenses"):
        rows = list(counts[kind].items())
        for name, one in rows[:TOP_LANGUAGES]:
            sums.add_row(name, f"{one['files']:,}", f"{one['bytes'] / 1e6:.2f}", f"{one['tokens']:,}")
        if len(rows) > TOP_LANGUAGES:
            sums.add_row(f"and {len(rows) - TOP_LANGUAGES} more {kind}", "", "", "")
        sums.add_section()
    return [files, sums]
