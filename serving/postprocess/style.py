"""What one level of indentation is in a file."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

WIDTHS = (4, 2, 8)
"""Blanks a level, the commonest first."""
TAB = "\t"
BLANKS = re.compile(r"[ \t]*")


def style_of(lines: Sequence[str]) -> str | None:
    """What one level of indentation is in some lines of code; None if none is indented, or some by tabs and most by blanks.

    Such a file may hold tabs of eight columns between levels of two.
    """
    leads = [lead(line) for line in lines if not aligned(line)]
    tabs = sum(blanks.startswith(TAB) for blanks in leads)
    widths = [len(blanks) for blanks in leads if TAB not in blanks]
    if tabs > sum(width > 1 for width in widths):
        return TAB
    if tabs:
        return None
    steps = Counter(step for one, next_ in itertools.pairwise(widths) if (step := next_ - one) in WIDTHS)
    if steps:
        return " " * max(steps, key=lambda step: (steps[step], -step))
    return next((" " * width for width in (4, 2) if any(widths) and all(one % width == 0 for one in widths)), None)


def aligned(line: str) -> bool:
    """Whether a line is the middle of a block comment, one blank deeper than its beginning."""
    return line.lstrip(" \t").startswith("*") and lead(line).endswith(" ")


def lead(line: str) -> str:
    """The blanks that a line begins with."""
    found = BLANKS.match(line)
    return found[0] if found else ""
