"""Cursors in held-out files, and what a completion should write there."""

from typing import NamedTuple

import numpy as np

SHORTEST_REST = 3
"""Characters: a closing bracket alone is no completion to be proud of."""


class Place(NamedTuple):
    """A cursor in a file, and what stands between it and the end of its line."""

    prefix: str
    rest: str
    suffix: str


def draw_places(texts: list[str], count: int, seed: int, whole_line: bool = False) -> list[Place]:
    """Cursors in lines drawn alike over all texts, white space at a line's end left to the suffix.

    whole_line: the cursor stands behind the indentation, and all of the line is to be written. Else it stands further on, drawn
    alike over the characters, at least SHORTEST_REST of them before the end. The same seed draws other lines for the one
    than for the other.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, int(whole_line)]))
    shortest = SHORTEST_REST if whole_line else SHORTEST_REST + 1
    lines = [
        (number, begin + len(line) - len(line.lstrip()), begin + len(line.rstrip()))
        for number, text in enumerate(texts)
        for begin, line in lines_of(text)
        if len(line.strip()) >= shortest
    ]
    places = []
    for index in random.permutation(len(lines))[:count]:
        number, begin, end = lines[index]
        cursor = begin if whole_line else int(random.integers(begin + 1, end - SHORTEST_REST + 1))
        places.append(Place(texts[number][:cursor], texts[number][cursor:end], texts[number][end:]))
    return places


def lines_of(text: str) -> list[tuple[int, str]]:
    """Where each line begins, and the line without its break."""
    found, begin = [], 0
    for line in text.split("\n"):
        found.append((begin, line))
        begin += len(line) + 1
    return found
