"""Where a text is cut for fill-in-the-middle: places like those at which an editor asks.

Character spans teach every cut, inside words too: a model trained on lines alone fails on them (Bavarian et al. 2022,
table 2: 1.5 % against 32.1 % on random spans). The others are what a completion fills.
"""

import io
from collections.abc import Callable

import numpy as np

from codelm.config.data import FimConfig
from training.syntax_spans import syntax_span

LONGEST_BLOCK = 12
"""Lines."""
Span = tuple[int, int] | None


def draw_span(
    text: str, config: FimConfig, random: np.random.Generator, language: str | None = None, ends: bool = True
) -> Span:
    """Begin and end of the middle, in characters, by the weights of the configuration; None if the text has no such place.

    language: as the corpus names it. Where it has no grammar, or the text no node, one of the other kinds is drawn. ends:
    whether the text ends where its file does; where a window cut it off nothing ends, and no middle may seem to.
    A middle that begins a line holds its indentation or not, by `config.indent_in_middle`: an editor asks at both places.
    """
    whole = text if ends else text[: max(text.rfind("\n"), text.rfind("\r")) + 1]

    def closed(span: Span) -> Span:
        """A node, unless it may go on behind the cut."""
        return span if ends or span is None or span[1] < len(whole.rstrip()) else None

    kinds: dict[str, Callable[[], Span]] = {
        "character": lambda: character_span(text, random, ends),
        "ast": lambda: closed(syntax_span(whole, language, random)),
        "line": lambda: line_span(whole, random),
        "block": lambda: block_span(whole, random),
        "empty": lambda: empty_span(text, random, ends),
    }
    kind = draw_kind(config, tuple(kinds), random)
    span = kinds[kind]()
    if span is None and kind == "ast":
        others = tuple(name for name in kinds if name != "ast" and getattr(config, name))
        span = kinds[kind := draw_kind(config, others, random)]() if others else None
    if span is None or kind in ("character", "empty"):
        return span
    begin, end = span
    indentation = indentation_before(text, begin)
    holds_it = random.random() < config.indent_in_middle
    return (begin - indentation if holds_it else begin), end


def draw_kind(config: FimConfig, kinds: tuple[str, ...], random: np.random.Generator) -> str:
    """One of the kinds of spans by their weights."""
    until = np.cumsum([getattr(config, kind) for kind in kinds])
    return kinds[int(np.searchsorted(until, random.random() * until[-1], side="right"))]


def indentation_before(text: str, place: int) -> int:
    """The white space between the beginning of the line and a place in it; 0 if there is anything else."""
    before = text[max(text.rfind("\n", 0, place), text.rfind("\r", 0, place)) + 1 : place]
    return len(before) if not before.strip() else 0


def character_span(text: str, random: np.random.Generator, ends: bool = True) -> Span:
    """Between two characters drawn alike."""
    if not text:
        return None
    begin, end = sorted(random.integers(0, len(text) + ends, size=2).tolist())
    return begin, end


def empty_span(text: str, random: np.random.Generator, ends: bool = True) -> Span:
    """No middle, anywhere, or one that ends the text and begins at any place of its last lines: that nothing is missing has
    to be learned, and a file is mostly written at its end."""
    begin = int(random.integers(0, max(1, len(text) + ends)))
    if not ends or random.random() < 0.5:
        return begin, begin
    first = line_starts(text)[-LONGEST_BLOCK:][0][0]
    return int(random.integers(first, len(text) + 1)), len(text)


def line_span(text: str, random: np.random.Generator) -> Span:
    """From a place in a line, its indentation behind it, to the end of that line."""
    lines = [(begin, end) for begin, end in line_starts(text) if text[begin:end].strip()]
    if not lines:
        return None
    begin, end = lines[random.integers(len(lines))]
    indentation = indentation_of(text[begin:end]) or 0
    return begin + indentation + int(random.integers(0, end - begin - indentation)), end


def block_span(text: str, random: np.random.Generator) -> Span:
    """A run of lines that are indented at least as far as the first, beginning behind the first one's indentation."""
    lines = line_starts(text)
    depths = [indentation_of(text[begin:end]) for begin, end in lines]
    firsts = [number for number, depth in enumerate(depths) if depth is not None]
    if not firsts:
        return None
    first = firsts[random.integers(len(firsts))]
    (begin, end), depth = lines[first], depths[first] or 0
    count = int(random.integers(1, LONGEST_BLOCK + 1))
    for (_, end_of_next), next_depth in zip(lines[first + 1 : first + count], depths[first + 1 : first + count], strict=True):
        if next_depth is not None and next_depth < depth:
            break
        if next_depth is not None:
            end = end_of_next
    return begin + depth, end


def line_starts(text: str) -> list[tuple[int, int]]:
    """Begin and end of each line, the line break (LF, CRLF or CR, as in an editor) not included."""
    spans, begin = [], 0
    # not str.splitlines, for which a form feed ends a line as well
    for line in list(io.StringIO(text, newline="")) or [""]:
        spans.append((begin, begin + len(line.rstrip("\r\n"))))
        begin += len(line)
    return spans


def indentation_of(line: str) -> int | None:
    """Characters of white space at the beginning; None for a blank line."""
    content = line.lstrip()
    return len(line) - len(content) if content else None
