"""A file cut into runs of lines that stand for themselves, by indentation and blank lines, whatever the language."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

MAX_LINES = 32
"""A definition that is longer is cut at its next indentation level, then at blank lines, then anywhere."""
MIN_LINES = 8
"""What is shorter is joined with what follows."""
MAX_DEPTH = 8
"""Indentation levels that are looked at."""
TAB = 4
"""Columns, only to tell deeper from less deep."""
CLOSES = re.compile(
    r"[)\]}]|(?:end|else|elif|elsif|elseif|except|finally|catch|fi|done|esac|then|rescue|ensure|case|default)\b"
)
"""How a line begins that goes on with what stands above it at the same indentation."""


class Chunk(NamedTuple):
    """A run of lines of a file, or what its head keeps of it.

    path: below the workspace's root, "/" between the parts. start, end: lines, from 0, the last excluded. text: ends its
    last line.
    """

    path: str
    start: int
    end: int
    text: str


def cut(path: str, text: str) -> list[Chunk]:
    """All of a file, but for blank lines between chunks."""
    lines = text.split("\n")
    indents = [indent(line) for line in lines]
    chunks = []
    for start, end in joined(pieces(lines, indents, 0, len(lines))):
        filled = [number for number in range(start, end) if indents[number] is not None]
        if filled:
            first, last = filled[0], filled[-1] + 1
            chunks.append(Chunk(path, first, last, "\n".join(lines[first:last]) + "\n"))
    return chunks


def head(chunk: Chunk) -> Chunk:
    """What a chunk declares: its lines at the two outermost levels that open a block or hold a statement of the outermost,
    with all of their brackets.
    """
    lines = chunk.text.split("\n")[:-1]
    indents = [indent(line) for line in lines]
    filled = [(line, level) for line, level in zip(lines, indents, strict=True) if level is not None]
    outermost = sorted({level for _, level in filled})[:2]
    kept = []
    brackets = 0
    for (line, level), (_, following) in pairwise((*filled, ("", 0))):
        opens = following > level and level in outermost
        if brackets > 0 or level == outermost[0] or opens:
            kept.append(line)
            brackets = max(0, brackets + sum(map(line.count, "([")) - sum(map(line.count, ")]")))
    return chunk._replace(text="\n".join(kept) + "\n")


def indent(line: str) -> int | None:
    """Columns before the text of a line; None for a blank one."""
    text = line.lstrip()
    return len(line[: len(line) - len(text)].expandtabs(TAB)) if text else None


def pieces(
    lines: Sequence[str], indents: Sequence[int | None], start: int, end: int, depth: int = 0
) -> Iterator[tuple[int, int]]:
    """Runs of lines of at most MAX_LINES: what stands at the outermost level, cut at deeper ones where it is longer."""
    levels = sorted({level for level in indents[start:end] if level is not None})
    long = end - start > MAX_LINES
    if depth < MAX_DEPTH and (long or not depth):
        for level in levels[: MAX_DEPTH if long else 1]:
            bounds = [start, *starts(lines, indents, start, end, level), end]
            if len(bounds) > 2:
                for one, other in joined(pairwise(bounds)):
                    yield from pieces(lines, indents, one, other, depth + 1)
                return
    while end - start > MAX_LINES:
        blank = [number + 1 for number in range(start + MIN_LINES, start + MAX_LINES) if indents[number] is None]
        middle = blank[-1] if blank else start + MAX_LINES
        yield start, middle
        start = middle
    yield start, end


def starts(lines: Sequence[str], indents: Sequence[int | None], start: int, end: int, level: int) -> Iterator[int]:
    """The lines at a level that begin something new: behind a blank line, a deeper one or a closing bracket, but with the
    comments and decorators above them.
    """
    for number in range(start + 1, end):
        if indents[number] != level or CLOSES.match(lines[number].lstrip()):
            continue
        above = indents[number - 1]
        if above is None or above > level or CLOSES.match(lines[number - 1].lstrip()):
            yield number


def joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """A short run of lines put together with the next, if both are not too long."""
    held: tuple[int, int] | None = None
    for start, end in runs:
        if held is None:
            held = start, end
        elif held[1] - held[0] < MIN_LINES and end - held[0] <= MAX_LINES:
            held = held[0], end
        else:
            yield held
            held = start, end
    if held:
        yield held
