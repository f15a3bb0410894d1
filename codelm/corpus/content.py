"""What the text of a file tells against it: too short, minified, data, repetitive, or written by a program."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import NamedTuple

import yaml

from codelm.config.corpus import Filters
from codelm.corpus.languages import DATA
from codelm.corpus.sources.base import Rejection

MIN_LINES_FOR_DUPLICATES = 10
"""Below this many lines a few equal ones are the nature of the file, not a sign of a table."""

SPACES = b" \t\n\r\v\f"
MARKS = bytes(byte for byte in range(128) if not chr(byte).isalnum())
"""Bytes above ASCII count as letters."""

ENCODED = re.compile(
    rb"[A-Za-z0-9+/]{48,}={0,2}"  # base64, hexadecimal
    rb"|(?:\\x[0-9A-Fa-f]{2}){8,}"
    rb"|(?:\\u[0-9A-Fa-f]{4}){4,}"
    rb"|(?:\\[0-7]{3}){8,}"
    rb"|(?:[-+]?(?:0[xX][0-9A-Fa-f]+[uUlL]*|\d[\d.eE]*)\s*,\s*){16,}"
)
"""Runs of data written as text. No word is so long, and no call takes so many numbers."""
BASE64 = bytes(97 if chr(byte).isalnum() or byte in b"+/" else 32 for byte in range(128)) + b" " * 128
RUN = 48

MARKED_LINES = 40
MARKED_CHARS = 4000
CODE_LINES = 5
START_LINES = 5
START_CHARS = 600
END_LINES = 3
END_CHARS = 400
COMMENT = re.compile(r"#|//|/\*|--|\(\*|\{-|<!--|<%--|%|;|!|=begin|rem |dnl |\.\.|@rem ")
"""How a comment begins in most languages."""
BLOCKS = {"/*": "*/", "<!--": "-->", "(*": "*)", "{-": "-}", '"""': '"""', "'''": "'''", 'r"""': '"""'}
STRINGS = ('"""', "'''", "`")
HEREDOC = re.compile(r"<<[-~]?['\"]?([A-Za-z_]\w*)")


class Markers(NamedTuple):
    """How a file says that a program wrote it."""

    comment_cues: tuple[str, ...]
    start_cues: tuple[str, ...]
    comment: re.Pattern[str]
    start: re.Pattern[str]
    end: re.Pattern[str]


@cache
def markers() -> Markers:
    """The markers that ship with the package."""
    rows = yaml.safe_load((DATA / "generated.yaml").read_text(encoding="utf-8"))
    patterns = [re.compile("|".join(rows[kind]), re.MULTILINE) for kind in ("comment", "start", "end")]
    return Markers(tuple(rows["cues"]["comment"]), tuple(rows["cues"]["start"]), *patterns)


def content_rejection(text: str, language: str, filters: Filters) -> Rejection | None:
    """The first rule of `filters` that a text in a language breaks. Blank lines do not count, indentation neither."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if len(lines) < filters.min_lines:
        return Rejection("short", f"{len(lines)} lines")
    longest = max(map(len, lines))
    if longest > filters.max_line_chars:
        return Rejection("long_lines", f"a line of {longest} characters")
    mean = sum(map(len, lines)) / len(lines)
    if mean > filters.max_mean_line_chars:
        return Rejection("long_lines", f"{mean:.0f} characters a line")
    duplicates = 1 - len(set(lines)) / len(lines)
    if len(lines) >= MIN_LINES_FOR_DUPLICATES and duplicates > filters.max_duplicate_line_share:
        return Rejection("duplicate_lines", f"{duplicates:.0%} of the lines")
    data = text.encode()
    letters = len(data.translate(None, MARKS))
    if letters < filters.min_alphanumeric_share * len(data):  # only then it is worth leaving out the white space
        share = letters / max(1, len(data.translate(None, SPACES)))
        if share < filters.min_alphanumeric_share:
            return Rejection("alphanumeric", f"{share:.0%} letters and digits")
    encoded = encoded_share(data, filters.max_encoded_share)
    if encoded > filters.max_encoded_share:
        return Rejection("encoded_data", f"{encoded:.0%} of the text")
    return None


def encoded_share(data: bytes, limit: float) -> float:
    """The share of a text in long runs of base64, hexadecimal, escapes or numbers, or 0 if it cannot be above a limit."""
    runs = data.translate(BASE64).count(b"a" * RUN) * 2 * RUN  # a run of 2 * RUN - 1 counts once
    escapes = data.count(b"\\") * len("\\u0000")
    digits = len(data) - len(data.translate(None, b"0123456789"))
    if runs + escapes < limit * len(data) and digits < limit / 4 * len(data):
        return 0.0
    return sum(match.end() - match.start() for match in ENCODED.finditer(data)) / len(data)


def generated_marker(text: str) -> Rejection | None:
    """Whether the beginning or the end of a text says that a program wrote it; the detail is what it says."""
    known = markers()
    head = text[:MARKED_CHARS].lower()
    lines: list[str] = []
    if any(cue in head[:START_CHARS] for cue in known.start_cues):
        lines = head.split("\n", MARKED_LINES)[:MARKED_LINES]
        if found := known.start.search("\n".join(lines[:START_LINES])):
            return Rejection("generated", said(found))
    if any(cue in head for cue in known.comment_cues):
        lines = lines or head.split("\n", MARKED_LINES)[:MARKED_LINES]
        if found := known.comment.search("\n".join(comments(lines))):
            return Rejection("generated", said(found))
    tail = text[-END_CHARS:].rstrip()
    if "URL=" in tail:
        for line in islice(reversed(tail.split("\n")), END_LINES):
            if found := known.end.search(line.lower()):
                return Rejection("generated", said(found))
    return None


def said(found: re.Match[str]) -> str:
    """The words of a marker."""
    return " ".join(re.findall(r"[\w@:/.=-]+", found[0]))[:80]


def comments(lines: list[str]) -> Iterator[str]:
    """The lines of comments and documentation strings at the beginning of a text, a few lines of code between them.

    What stands in other strings, such as the templates of a program that writes programs, is code.
    """
    code = 0
    closer, is_comment = "", False
    for line in map(str.strip, lines):
        if closer:
            if is_comment:
                yield line
            if closer in line:
                closer = ""
            continue
        opener = next((opener for opener in BLOCKS if line.startswith(opener)), None)
        if opener:
            yield line
            if BLOCKS[opener] not in line[len(opener) :]:
                closer, is_comment = BLOCKS[opener], True
        elif COMMENT.match(line):
            yield line
        elif line:
            code += 1
            if code > CODE_LINES:
                return
            heredoc = HEREDOC.search(line)
            string = heredoc[1] if heredoc else next((mark for mark in STRINGS if line.count(mark) % 2), "")
            closer, is_comment = string, False
