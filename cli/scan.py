"""`codelm scan`: secrets, and on request personal data, in files and folders."""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import typer

from codelm import __version__
from codelm.errors import UserError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

LARGEST = 5_000_000
"""Bytes of a file that is still looked at."""
HEAD_BYTES = 8192
PATIENCE_SECONDS = 2
"""Longer scans show a bar."""
ALLOW = ("codelm:allow", "gitleaks:allow")
"""A line that holds one of them has no findings."""
PERSONAL = {"email": "e-mail address", "ip-address": "public IP address", "name": "name of an author"}


class Format(StrEnum):
    """How findings are written."""

    text = "text"
    json = "json"
    sarif = "sarif"


class Found(NamedTuple):
    """A finding in a file; lines and columns from 1, the end is after the last character."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    rule: str
    description: str
    preview: str
    """its first characters; the whole is nowhere written"""
    entropy: float
    fingerprint: str
    """equal as long as the same secret stands in the same file, wherever in it"""


@app.command(
    epilog="Exit code: 0 nothing found, 1 something found, 2 wrong use.",
)
def scan(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files and folders.", show_default=False)],
    as_format: Annotated[Format, typer.Option("--format", help="How findings are written.")] = Format.text,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of to the terminal.")] = None,
    personal: Annotated[bool, typer.Option("--pii", help="Also e-mail addresses, public IP addresses, author names.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Hide what is in an earlier output of --format json.")
    ] = None,
) -> None:
    """Find keys, tokens and passwords in source code.

    A comment "codelm:allow" on its line hides a finding. Binary files and files over 5 MB are skipped.

    Examples:

    codelm scan .

    codelm scan src --format json --output known.json

    codelm scan src --baseline known.json --format sarif --output scan.sarif
    """
    known = read_baseline(baseline) if baseline else frozenset()
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            raise UserError(f"{printable(path)}: {error.strerror}", "give files and folders that are there") from None
    skipped: Counter[str] = Counter()
    found: list[Found] = []
    count = 0
    for path, text in texts(paths, skipped):
        count += 1
        found += (one for one in findings(printable(path), text, personal) if one.fingerprint not in known)
    write(report(found, count, as_format), output)
    for reason, times in sorted(skipped.items()):
        typer.echo(f"skipped: {reason}" + (f" ({times} files)" if times > 1 else ""), err=True)
    if output or as_format != Format.text:
        typer.echo(summary(found, count), err=True)
    if found:
        raise typer.Exit(1)


def texts(paths: list[Path], skipped: Counter[str]) -> Iterator[tuple[Path, str]]:
    """The text files among them, each once, with a bar if it takes long. Counts what it skips."""
    from cli.progress import Display

    listed = list(dict.fromkeys(file for path in paths for file in files_below(path, skipped)))
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        progress = None
        for done, path in enumerate(listed):
            text = read_text(path, skipped)
            if text is not None:
                yield path, text
            if progress is None and time.monotonic() - start > PATIENCE_SECONDS:
                display = stack.enter_context(Display())
                progress = stack.enter_context(display.stage("scan")) if display.console.is_terminal else lambda *_: None
            if progress:
                progress(done + 1, len(listed))


def files_below(path: Path, skipped: Counter[str]) -> Iterator[Path]:
    """The files of a folder in order, without what git keeps for itself; links are followed only if given by name."""
    if not path.is_dir():
        yield path
        return

    def unreadable(error: OSError) -> None:
        skipped[f"{printable(error.filename)} is not readable: {error.strerror}"] += 1

    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            file = Path(folder, name)
            if not file.is_symlink():
                yield file


def read_text(path: Path, skipped: Counter[str]) -> str | None:
    """A file's text in whatever encoding it has; None, and counted, if it is none or too large."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            skipped["not a file (a device, socket or pipe)"] += 1
            return None
        if info.st_size > LARGEST:
            skipped[f"{printable(path)} is larger than {LARGEST // 1_000_000} MB"] += 1
            return None
        data = path.read_bytes()
    except OSError as error:
        skipped[f"{printable(path)} is not readable: {error.strerror}"] += 1
        return None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-16")
    if b"\0" in data[:HEAD_BYTES]:
        skipped["binary"] += 1
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def findings(path: str, text: str, personal: bool) -> list[Found]:
    """What is found in a text, in order, without the lines that allow it."""
    from codelm.corpus import pii
    from codelm.corpus import secrets as rules

    places = [(one.start, one.end, one.rule, one.description, one.entropy) for one in rules.scan(text)]
    if personal:
        notices = pii.Attribution(text)
        for span in (*pii.emails(text), *pii.ip_addresses(text), *pii.names(text)):
            apart = all(span.end <= start or span.start >= end for start, end, *_ in places)
            if apart and not notices.holds(span.start, span.end):
                value = text[span.start : span.end]
                places.append((span.start, span.end, span.kind, PERSONAL[span.kind], rules.entropy(value)))
    found = []
    line, counted = 1, 0
    for start, end, rule, description, entropy in sorted(places):
        line += text.count("\n", counted, start)
        counted = start
        line_end = text.find("\n", end)
        shown = text[text.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else len(text)]
        if any(mark in shown for mark in ALLOW):
            continue
        secret = text[start:end]
        found.append(
            Found(
                path,
                line,
                start - text.rfind("\n", 0, start),
                line + secret.count("\n"),
                end - text.rfind("\n", 0, end),
                rule,
                description,
                preview(secret),
                round(entropy, 2),
                hashlib.sha256(f"{rule}\0{path}\0{secret}".encode("utf-8", "surrogatepass")).hexdigest(),
            )
        )
    return found


def preview(secret: str) -> str:
    """Enough to recognise a secret by: at most a quarter of it."""
    first = secret[: min(4, len(secret) // 4)]
    return f"{printable(first)}… ({len(secret)} characters)"


def printable(path: object) -> str:
    """A path or text on one line of valid Unicode."""
    text = os.fsencode(str(path)).decode("utf-8", "replace") if isinstance(path, Path) else str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints in an earlier output. Raises UserError if it is none."""
    try:
        return frozenset(finding["fingerprint"] for finding in json.loads(path.read_bytes())["findings"])
    except OSError as error:
        raise UserError(f"{path} is not readable: {error.strerror}", "make it with --format json --output FILE") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no output of this command", "make it with --format json --output FILE") from None


def write(text: str, output: Path | None) -> None:
    """Prints it or writes it into a file. Raises UserError if that cannot be."""
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}", "give --output another file") from None


def report(found: list[Found], count: int, as_format: Format) -> str:
    """The findings of so many files in a format."""
    if as_format == Format.json:
        return json.dumps(
            {"version": 1, "files": count, "findings": [one._asdict() for one in found]}, indent=2, ensure_ascii=False
        )
    if as_format == Format.sarif:
        return json.dumps(sarif(found), indent=2, ensure_ascii=False)
    rows = [(f"{one.path}:{one.line}:{one.column}", one.rule, one.preview) for one in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{place:<{widths[0]}}  {rule:<{widths[1]}}  {start}" for place, rule, start in rows]
    return "\n".join([*lines, *([""] if lines else []), summary(found, count)])


def summary(found: Iterable[Found], count: int) -> str:
    """How much was found, in one line."""
    where = Counter(one.path for one in found)
    total = where.total()
    findings_ = f"{total or 'no'} finding{'' if total == 1 else 's'}"
    return f"{findings_} in {f'{len(where)} of ' if total else ''}{count:,} file{'' if count == 1 else 's'}"


def sarif(found: list[Found]) -> dict[str, Any]:
    """SARIF 2.1.0 (OASIS), what code hosts and editors read."""
    rules = {one.rule: one.description for one in found}
    order = list(rules)
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "codelm scan",
                        "semanticVersion": __version__,
                        "rules": [
                            {"id": rule, "shortDescription": {"text": description}} for rule, description in rules.items()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    {
                        "ruleId": one.rule,
                        "ruleIndex": order.index(one.rule),
                        "level": "warning" if one.rule in PERSONAL else "error",
                        "message": {"text": f"{one.description}: {one.preview}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": quote(Path(one.path).as_posix())},
                                    "region": {
                                        "startLine": one.line,
                                        "startColumn": one.column,
                                        "endLine": one.end_line,
                                        "endColumn": one.end_column,
                                    },
                                }
                            }
                        ],
                        "partialFingerprints": {"secret/v1": one.fingerprint},
                    }
                    for one in found
                ],
            }
        ],
    }
