"""`codelm corpus build` and `codelm corpus plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codelm.config.corpus import CorpusConfig

TOP = 12

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE…",
        help='Folders, "stdlib" (default: the standard library of this Python), git:DIR[@COMMIT], python:[SITE-PACKAGES], '
        "npm:NODE_MODULES, jsonl:FILE, parquet:FILE|DIR, hf:NAME@REVISION.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="NAME|FILE.yaml", help="Settings, such as stdlib or installed; the options here override them."
    ),
]
AllowCopyleft = Annotated[bool, typer.Option("--allow-copyleft", help="Keep files under the GPL, LGPL, MPL and their like.")]
AllowUnknown = Annotated[bool, typer.Option("--allow-unknown", help="Keep files whose licence nobody states (your own).")]
ValidShare = Annotated[
    float | None, typer.Option("--valid-share", help="Share of the bytes held out for validation (0 to 0.5).")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Tasks at once. Default: one for each core.")]


def settings_of(
    config: str | None,
    sources: list[str] | None,
    allow_copyleft: bool,
    allow_unknown: bool,
    valid_share: float | None = None,
    workers: int | None = None,
) -> "CorpusConfig":
    """The settings that a file and the options give together."""
    from codelm.config.corpus import COPYLEFT, CorpusConfig
    from codelm.config.load import checked
    from codelm.config.preset import load_named

    values: dict[str, Any] = (load_named("corpora", config, CorpusConfig) if config else CorpusConfig()).model_dump()
    if sources:
        values["sources"] = sources
    if allow_copyleft:
        values["licenses"]["allow"] = [*values["licenses"]["allow"], *COPYLEFT]
    if allow_unknown:
        values["licenses"]["unknown"] = "keep"
    if valid_share is not None:
        values["valid_share"] = valid_share
    if workers is not None:
        values["execution"]["workers"] = workers
    return checked(values, CorpusConfig)


def build(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder; the corpus goes to DIR/corpus.")],
    sources: Sources = None,
    config: Config = None,
    allow_copyleft: AllowCopyleft = False,
    allow_unknown: AllowUnknown = False,
    valid_share: ValidShare = None,
    workers: Workers = None,
) -> None:
    """Build the corpus of a run: read, filter, redact, deduplicate, split.

    A run whose sources and settings are unchanged is left as it is. After Ctrl-C the same command goes on where it stopped.

    Example: codelm corpus build ~/src/my-project stdlib --run runs/mine

    codelm corpus build python: npm:node_modules git:~/src/lib.git@v2.1 --run runs/mine
    """
    from rich.console import Console

    from cli.progress import Display
    from cli.stages import RunFolder, resumable
    from codelm.stage import MANIFEST, lock

    settings = settings_of(config, sources, allow_copyleft, allow_unknown, valid_share, workers)
    with resumable(), lock(run), Display() as display:
        stages = RunFolder(run, display)
        stood = modified(stages.corpus / MANIFEST)
        manifest = stages.build_corpus(settings)
        unchanged = stood is not None and modified(stages.corpus / MANIFEST) == stood
    console = Console()
    for part in summary(manifest.counts):
        console.print(part)
    for warning in manifest.counts["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}", highlight=False)
    said = "unchanged, nothing to do" if unchanged else f"built in {manifest.seconds:.1f} s"
    console.print(f"{stages.corpus}: snapshot {manifest.counts['snapshot_id']}, {said}", soft_wrap=True, highlight=False)
    console.print(f"see {stages.corpus / 'report.html'}", soft_wrap=True, highlight=False)


def plan(
    sources: Sources = None,
    config: Config = None,
    allow_copyleft: AllowCopyleft = False,
    allow_unknown: AllowUnknown = False,
    workers: Workers = None,
    sample_mb: Annotated[int, typer.Option("--sample-mb", min=1, help="How much of the sources to judge for real.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Dry run: what would be kept and dropped, how large, how long. Writes nothing.

    Example: codelm corpus plan python: --sample-mb 32
    """
    import json

    from rich.console import Console

    from cli.progress import Display
    from codelm.corpus.plan import plan as dry_run

    settings = settings_of(config, sources, allow_copyleft, allow_unknown, workers=workers)
    with Display() as display, display.stage("plan") as progress:
        found = dry_run(settings, Path.cwd() / ".codelm-plan", sample_mb * 1_000_000, progress)
    if as_json:
        typer.echo(json.dumps(found))
        return
    console = Console()
    for part in plan_tables(found):
        console.print(part)
    basis = "all of it was judged" if found["exact"] else f"scaled up from {found['sampled'] / 1e6:.0f} MB that were judged"
    console.print(f"{found['bytes'] / 1e6:.1f} MB of files; {basis}; about {found['seconds']:.0f} s to clean it all")
    if not found["kept"]:
        return
    chance = ", ".join(f"{similarity:.0%}: {share:.1%}" for similarity, share in found["s_curve"] if similarity >= 0.5)
    console.print(f"chance that two files this similar are compared: {chance}", highlight=False)


def modified(path: Path) -> int | None:
    """When a file was written, in ns; None if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else None


def right(*columns: str, title: str | None = None) -> Any:
    """A table whose columns but the first are numbers."""
    from rich.table import Table

    table = Table(*columns, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def summary(counts: dict[str, Any]) -> list[Any]:
    """What a corpus holds and what it lacks, as tables. counts: of its manifest."""
    from codelm.corpus.report import size

    files = right("", "files", "size", title=f"{counts['files_kept']:,} of {counts['files_seen']:,} files kept")
    for reason, count in counts["rejected"].items():
        files.add_row(f"rejected: {reason}", f"{count:,}", size(counts["rejected_bytes"][reason]))
    for kind, count in counts["redactions"].items():
        files.add_row(f"redacted: {kind}", f"{count:,}", "")
    sums = right("", "files", "size", "lexemes")
    for kind in ("splits", "languages", "licenses"):
        rows = list(counts[kind].items())
        for name, one in rows[:TOP]:
            sums.add_row(name, f"{one['files']:,}", size(one["bytes"]), f"{one['tokens']:,}")
        if len(rows) > TOP:
            sums.add_row(f"and {len(rows) - TOP} more {kind}", "", "", "")
        sums.add_section()
    return [files, sums]


def plan_tables(found: dict[str, Any]) -> list[Any]:
    """What would be kept and dropped, as tables."""
    from codelm.corpus.report import size

    files = right("", "files", "size", title="What a build would do")
    for name, count in [("keep", found["kept"]), *((f"drop: {reason}", one) for reason, one in found["dropped"].items())]:
        files.add_row(name, f"{count.get('files', 0):,}", size(count.get("bytes", 0)))
    sums = right("kept", "size")
    for kind in ("languages", "licenses"):
        for name, count in list(found[kind].items())[:TOP]:
            sums.add_row(name, size(count))
        sums.add_section()
    return [files, sums]
