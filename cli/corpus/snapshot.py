"""`codelm corpus status`, `licenses`, `why`, `verify`, `diff`, `remove`, `export`: what to do with a finished corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.console import console, plain_table

if TYPE_CHECKING:
    from codelm.corpus.snapshot import Diff
    from codelm.corpus.status import Status
    from codelm.corpus.why import Answer

Run = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder, or the corpus folder in it.")]

Format = Literal["jsonl", "parquet"]

MAX_LINES = 20
"""of each kind that are shown"""


def corpus_of(run: Path) -> Path:
    """The corpus folder of a run folder, or of itself. Raises UserError if there is no such folder."""
    from codelm.errors import UserError
    from codelm.stage import MANIFEST

    try:
        if not run.is_dir():
            raise UserError(f"{run}: no such run folder", "give the one that `codelm corpus build` wrote to, with --run")
        return run if (run / "snapshot").is_dir() or (run / MANIFEST).exists() else run / "corpus"
    except OSError as error:
        raise UserError(f"{run} cannot be entered ({error.strerror})", "look at the rights to it") from error


def status(run: Run) -> None:
    """Show what corpus stands in a run folder, and how far a build is that has not ended.

    Example: codelm corpus status --run runs/mine
    """
    from codelm.corpus.status import status as look

    console().print(status_table(corpus_of(run), look(corpus_of(run))))


def status_table(folder: Path, found: "Status") -> Any:
    """A status for people."""
    from datetime import datetime

    from codelm.corpus.report import counted, size

    table = plain_table(str(folder))
    if manifest := found.manifest:
        counts = manifest.counts
        total = sum(one["bytes"] for one in counts["splits"].values())
        table.add_row("snapshot", counts["snapshot_id"])
        table.add_row("built", f"{manifest.created} in {manifest.seconds:.1f} s, codelm {manifest.codelm_version}")
        table.add_row("kept", f"{counts['files_kept']:,} of {counted(counts['files_seen'], 'file')}, {size(total)}")
        for name, one in counts["splits"].items():
            table.add_row(name, f"{counted(one['files'], 'file')}, {size(one['bytes'])}, {one['tokens']:,} words and marks")
        table.add_row("on disk", size(found.bytes_on_disk))
        table.add_row("sources", "\n".join(manifest.config["sources"]))
        if manifest.config["opt_outs"]:
            table.add_row("opted out", "\n".join(manifest.config["opt_outs"]))
        for warning in counts["warnings"]:
            table.add_row("warning", warning)
    else:
        table.add_row("snapshot", "none is finished")
    if build := found.unfinished:
        tasks = f", {build.tasks_done} of {build.tasks} tasks" if build.tasks else ""
        judged = f"{size(build.bytes_done)} of {size(build.bytes)} judged"
        table.add_row("unfinished", f"a build has not finished: at {build.step}{tasks}; {judged}")
        touched = datetime.fromtimestamp(build.touched).astimezone().isoformat(timespec="seconds")
        table.add_row("", f"last written {touched}; a build with the same settings and sources uses what is done")
    return table


def licenses(run: Run) -> None:
    """Show what was kept and what was left out, by licence.

    Example: codelm corpus licenses --run runs/mine
    """
    from rich.table import Table
    from rich.text import Text

    from codelm.corpus.report import licenses as by_license
    from codelm.corpus.report import size

    table = Table("licence", "kept files", "size", "left out", "size")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, kept, dropped in by_license(corpus_of(run)):
        cells = [f"{one['files']:,}" if one["files"] else "" for one in (kept, dropped)]
        sizes = [size(one["bytes"]) if one["files"] else "" for one in (kept, dropped)]
        table.add_row(Text(name), cells[0], sizes[0], cells[1], sizes[1])
    console().print(table)


def why(
    file: Annotated[str, typer.Argument(metavar="FILE", help="REPO/PATH, a path in a repository, or one on this machine.")],
    run: Run,
) -> None:
    """Tell why a file is in the corpus, or which rule dropped it.

    Example: codelm corpus why src/app/views.py --run runs/mine
    """
    from codelm.corpus.why import MAX_ANSWERS
    from codelm.corpus.why import why as ask

    out = console()
    answers = ask(corpus_of(run), file)
    for answer in answers:
        out.print(answer_table(answer))
    if len(answers) == MAX_ANSWERS:
        out.print(f"The first {MAX_ANSWERS}; give more of the path to see one.")


def answer_table(answer: "Answer") -> Any:
    """An answer for people."""
    table = plain_table(answer.place)
    table.add_row("kept" if answer.kept else "left out", answer.sentence)
    if answer.reason:
        table.add_row("rule", answer.reason)
    if answer.like:
        like = f"{answer.like} ({answer.jaccard:.0%} alike, Jaccard)" if answer.jaccard else answer.like
        table.add_row("a copy of", like)
    elif answer.detail:
        table.add_row("found", answer.detail)
    if answer.language:
        table.add_row("language", answer.language)
    if answer.license or answer.kept:
        how = f", by {answer.license_method}" if answer.license_method else ""
        sure = f", {answer.license_confidence:.0%} sure" if answer.license_confidence is not None else ""
        table.add_row("licence", f"{answer.license or 'unknown'}{how}{sure}")
    if answer.size is not None:
        table.add_row("size", f"{answer.size:,} bytes")
    if answer.redacted:
        table.add_row("replaced", ", ".join(f"{kind} {count}" for kind, count in answer.redacted.items()))
    lines = [f"{copy['repo']}/{copy['path']} ({copy['kind']}, {copy['license'] or 'unknown'})" for copy in answer.copies]
    if lines:
        table.add_row("stands for", "\n".join(shortened(lines)))
    return table


def verify(run: Run) -> None:
    """Check a corpus: every file against its hash, every row, and the sums. Exit code 1 if something is wrong.

    Example: codelm corpus verify --run runs/mine
    """
    from cli.progress import Display
    from codelm.corpus.report import counted
    from codelm.corpus.snapshot import verify as check
    from codelm.stage import Manifest

    with Display() as display, display.stage("verify") as progress:
        problems = check(corpus_of(run), progress)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    manifest = Manifest.read(corpus_of(run))
    typer.echo(f"{corpus_of(run)}: whole, {counted(len(manifest.outputs), 'file')}, snapshot {manifest.counts['snapshot_id']}")


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder, or the corpus folder in it.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    full: Annotated[bool, typer.Option("--full", help=f"Every file, not only the first {MAX_LINES} of each kind.")] = False,
) -> None:
    """Compare two corpora: files, splits, settings and sums. Exit code 1 if their code differs.

    Example: codelm corpus diff runs/monday runs/today
    """
    from codelm.corpus.snapshot import diff as compare

    found = compare(corpus_of(first), corpus_of(second))
    out = console()
    out.print(diff_table(found, full, full or not out.is_terminal))
    if found:
        raise typer.Exit(1)


def diff_table(found: "Diff", full: bool, whole: bool) -> Any:
    """A difference for people. full: every file. whole: long values of settings are not cut."""
    from codelm.corpus.report import size

    table = plain_table("The same code in both" if not found else "Not the same code")
    for name in ("added", "removed", "changed"):
        if lines := getattr(found, name):
            table.add_row(f"{name} {len(lines):,}", "\n".join(lines if full else shortened(lines)))
    for name in ("moved", "relicensed"):
        if lines := [f"{place}: {a} → {b}" for place, (a, b) in getattr(found, name).items()]:
            table.add_row(f"{name} {len(lines):,}", "\n".join(lines if full else shortened(lines)))
    for name in ("settings", "inputs"):
        if lines := [f"{key}: {brief(a, whole)} → {brief(b, whole)}" for key, (a, b) in getattr(found, name).items()]:
            table.add_row(name, "\n".join(lines))
    for name in ("languages", "licenses"):
        if lines := [f"{key}: {size(a)} → {size(b)}" for key, (a, b) in getattr(found, name).items()]:
            table.add_row(name, "\n".join(lines if full else shortened(lines)))
    return table


def remove(
    patterns: Annotated[list[str], typer.Argument(metavar="GLOB…", help="Patterns of repo/path; * stands for anything.")],
    run: Run,
) -> None:
    """Take code out of a corpus: a new snapshot without the files that match, nor any copy of them.

    Example: codelm corpus remove 'owner/name' 'pypi/*/legacy/*' --run runs/mine
    """
    from cli.progress import Display
    from codelm.corpus.report import counted
    from codelm.corpus.snapshot import remove as take_out
    from codelm.stage import Manifest, lock

    folder = corpus_of(run)
    with lock(folder.parent, create=False), Display() as display, display.stage("remove") as progress:
        before = Manifest.read(folder)
        after = take_out(folder, patterns, progress)
    gone = before.counts["files_kept"] - after.counts["files_kept"]
    typer.echo(
        f"{folder}: {counted(gone, 'file')} removed, "
        f"{after.counts['files_kept']:,} left; snapshot {before.counts['snapshot_id']} → {after.counts['snapshot_id']}"
    )
    typer.echo(f"To keep them out of later builds, add to your settings: opt_outs: {after.config['opt_outs']}")
    typer.echo("Tokenizer, tokens and models that were made from it know the removed code still: make them again.")


def export(
    out: Annotated[
        Path, typer.Argument(metavar="FILE", help="Ends in .jsonl, .jsonl.gz, .jsonl.zst, .jsonl.bz2 or .parquet; - is stdout.")
    ],
    run: Run,
    form: Annotated[Format | None, typer.Option("--format", help="Of -; jsonl by default.", show_default=False)] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only train or valid.", show_default=False)] = None,
) -> None:
    """Write the rows of a corpus to one JSONL or Parquet file.

    Example: codelm corpus export code.jsonl.gz --run runs/mine --split train
    """
    from cli.progress import Display
    from codelm.corpus.export import export as write
    from codelm.corpus.report import counted

    with Display() as display, display.stage("export") as progress:
        count = write(corpus_of(run), out, form, split, progress)
    typer.echo(f"{out}: {counted(count, 'row')}", err=str(out) == "-")


def shortened(lines: list[str]) -> list[str]:
    """The first lines, and how many more there are."""
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES:,} more"]


def brief(value: Any, whole: bool) -> str:
    """A setting or fingerprint, short or whole."""
    text = "none" if value is None else str(value)
    return text if whole or len(text) <= 60 else f"{text[:57]}…"
