"""`codelm attribute`: which parts of a file stand verbatim in the corpus."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codelm.errors import UserError

if TYPE_CHECKING:
    from codelm.attribution.lookup import Match, Source

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

FOUND = 1
SHOWN = 5
"""Sources that the text form names."""


@app.command()
def attribute(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to look up; - is standard input.")],
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder, with a corpus.")] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The index itself: the corpus's folder attribution.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Of what is printed.")] = "text",
    min_lexemes: Annotated[
        int,
        typer.Option(min=30, help="Words and marks of the shortest range to report; fewer than 30 are not sure to be found."),
    ] = 30,
) -> None:
    """Tell which ranges of a text stand verbatim in the corpus: where, and under which licence.

    Words and marks count, the space between them does not. What stands in more than 16 files is boilerplate.

    Exit code: 0 no match (there may be boilerplate, or the text is too short to tell), 1 a match, 2 an error.

    Example: codelm attribute src/app.py --run runs/mine

    Example: git show HEAD:app.py | codelm attribute - --run runs/mine
    """
    if (run is None) == (index is None):
        raise UserError("one of --run and --index is needed", "give --run DIR, a run folder with a corpus")
    from codelm.attribution.lookup import Index

    folder = run / "corpus" / "attribution" if run else Path(index or "")
    text = read(file)
    found = Index.open(folder).matches(text, min_lexemes=min_lexemes)
    if output == "json":
        matches = [dataclasses.asdict(match) for match in found or []]
        typer.echo(json.dumps({"checked": found is not None, "matches": matches}, ensure_ascii=False, indent=2))
    elif found is None:
        typer.echo(f"not checked: fewer than {min_lexemes} words and marks")
    else:
        typer.echo("\n".join(line for match in found for line in described(match)) or "no match")
    if any(match.kind == "match" for match in found or []):
        raise typer.Exit(FOUND)


def read(file: str) -> str:
    """A text. Raises UserError if it cannot be read, or is none."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{file!r} cannot be read: {reason}", "give the path of a text file, or -") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{file!r} is not UTF-8 text", "give the path of a text file, or -")
    return text


def described(match: "Match") -> list[str]:
    """Lines of text that tell of a match."""
    where = lines(match.start_line, match.end_line)
    if match.kind == "boilerplate":
        what = f"boilerplate, in up to {match.n_files} files"
    else:
        what = f"verbatim in {match.n_files} file{'s' if match.n_files > 1 else ''}"
    told = [f"{where}: {match.lexemes} words and marks, {what}"]
    for source in match.sources[: 1 if match.kind == "boilerplate" else SHOWN]:
        told += described_source(source)
    more = match.n_files - SHOWN
    return [*told, f"    and {more} more"] if match.kind == "match" and more > 0 else told


def described_source(source: "Source") -> list[str]:
    """Lines of text that tell of a file of the corpus."""
    name = " ".join(filter(None, [source.repo, source.version]))
    place = f"    {name}: {source.path}, {lines(source.start_line, source.end_line)}, {source.license or 'licence unknown'}"
    address = [f"        {source.source_url}"] if source.source_url else []
    if not source.also_in:
        return [place, *address]
    first, more = source.also_in[0], len(source.also_in) - 1
    also = f"        also {first['repo']}: {first['path']}, {first['license'] or 'licence unknown'}"
    return [place, *address, also + (f", and {more} more cop{'ies' if more > 1 else 'y'}" if more else "")]


def lines(first: int, last: int) -> str:
    """A range of lines in words."""
    return f"line {first}" if first == last else f"lines {first}–{last}"
