"""A model that loops writes the same lines, or the same few words, again and again: once is enough."""

from serving.postprocess.place import Place

TIMES = 3
"""Of lines, so often in a row is a loop."""
LINES_PERIOD = 4
CHARS_TIMES = 4
CHARS_PERIOD = range(3, 41)


def apply(text: str, place: Place) -> str:
    """The text up to the end of a loop's first round."""
    lines = text.split("\n")
    for start in range(len(lines)):
        for period in range(1, LINES_PERIOD + 1):
            if loops(lines, start, period):
                return first_round("\n".join(lines[: start + period]))
    return first_round(text)


def loops(lines: list[str], start: int, period: int) -> bool:
    """Whether some lines with words stand TIMES times in a row."""
    block = lines[start : start + period]
    repeated = all(lines[start + period * n : start + period * (n + 1)] == block for n in range(1, TIMES))
    return repeated and any(char.isalpha() for line in block for char in line)


def first_round(text: str) -> str:
    """The text without the further rounds of a loop that it ends in, the last of them maybe not whole."""
    for period in CHARS_PERIOD:
        if len(text) < period * CHARS_TIMES:
            break
        if text[-period * CHARS_TIMES :] == text[-period:] * CHARS_TIMES and any(map(str.isalpha, text[-period:])):
            start = len(text) - period
            while start > 0 and text[start - 1] == text[start - 1 + period]:
                start -= 1
            return text[: start + period]
    return text
