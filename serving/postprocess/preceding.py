"""A completion does not repeat what stands before the cursor: the lines above, and what is typed of its line."""

from serving.postprocess.place import Place

WORD_CHARS = 3
"""Letters that tell a line from others."""
MOST_LINES = 4


def apply(text: str, place: Place) -> str:
    """Nothing if the text begins with the last lines above; else what it has beyond what is typed of the line."""
    lines = [line.rstrip() for line in place.lines_with(text)]
    if len(lines) == 1:
        lines[0] += place.after
    for count in range(1, min(len(lines), len(place.above), MOST_LINES) + 1):
        if lines[:count] == place.above[-count:] and distinctive("".join(lines[:count])):
            return ""
    typed = place.before.strip()
    if distinctive(typed) and text.startswith(typed):
        return text[len(typed) :]
    return text


def distinctive(line: str) -> bool:
    """Whether a line holds enough to stand twice by no chance."""
    return sum(map(str.isalpha, line)) >= WORD_CHARS
