"""`codelm corpus download`: sets of code from the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer


def download(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME…",
            help="Sets on the hub, as OWNER/NAME or OWNER/NAME/FOLDER, for example bigcode/the-stack-smol/data/python, "
            "codeparrot/codeparrot-clean, code-search-net/code_search_net.",
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="SHA", help="A commit, branch or tag; default: the newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Put the files there, not into the hub's own cache (HF_HOME).")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", metavar="FILE.jsonl", help="Also write functions with their docstrings there, for fine-tuning."
        ),
    ] = None,
) -> None:
    """Fetch sets of code and print them as sources, pinned to a commit.

    What is here already is not fetched again. Rows without a stated licence are left out of a corpus unless its settings
    say `licenses: {unknown: keep}`.

    Example: codelm corpus download codeparrot/codeparrot-clean

    Example: codelm corpus download code-search-net/code_search_net --pairs pairs.jsonl
    """
    from rich.console import Console

    from cli.progress import Display
    from codelm.corpus.sources.hub import fetch, resolve
    from codelm.corpus.sources.pairs import write_pairs
    from codelm.corpus.sources.tables import PARQUET, check, columns_of
    from codelm.errors import UserError

    if revision and len(names) > 1:
        raise UserError("--revision is of one set", "give one NAME, or write each as NAME@SHA")
    if pairs and pairs.is_dir():
        raise UserError(f"{pairs}: a folder", "give a file, such as pairs.jsonl")
    console = Console(soft_wrap=True, highlight=False)
    tables = []
    with Display() as display:
        for given in names:
            name, _, pinned = given.removeprefix("hf:").partition("@")
            found = resolve(name, pinned or revision)
            place = out / found.name if out else None
            with display.stage(found.name) as progress:
                fetched = fetch(found, progress, place)
            check(found.source, fetched)
            tables += fetched
            columns = columns_of(fetched)
            lacks = "" if columns and "license" in columns.of else ", without a licence column"
            console.print(f"{found.name}: {len(found.files):,} files, {found.size / 1e6:,.1f} MB, {found.commit}{lacks}")
            source = found.source
            if place:
                kind = "parquet" if all(table.name.lower().endswith(PARQUET) for table in fetched) else "jsonl"
                source = f"{kind}:{place.absolute()}"
            console.print(f"  codelm corpus build {source} --run DIR")
        if pairs:
            with display.stage("pairs") as progress:
                progress(0)
                try:
                    count = write_pairs(tables, pairs)
                except OSError as error:
                    raise UserError(f"{pairs}: {error.strerror}", "give another file with --pairs") from error
            if not count:
                raise UserError(f"no docstrings in {', '.join(names)}", "leave --pairs out, or give a set that has them")
            console.print(f"{pairs}: {count:,} functions with docstrings")
