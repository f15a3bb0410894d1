"""A completion does not repeat what stands after the cursor: the rest of its line, and the lines below."""

from serving.postprocess.place import Place

WORD_CHARS = 2
"""Letters and digits that tell a line from others: brackets alone are no repetition."""
LONG_LINE = 10
"""Characters of a line that stands twice by no chance, even if what comes after it differs."""


def apply(text: str, place: Place) -> str:
    """The text before the repetition."""
    return before_rest_of_line(before_next_lines(text, place), place)


def before_next_lines(text: str, place: Place) -> str:
    """The text before its line that is the next line of the file and goes on like it, or is a long one."""
    if not place.below:
        return text
    lines = place.lines_with(text)
    lines[-1] += place.after
    for number, line in enumerate(lines):
        if line.rstrip() != place.below[0] or not distinctive(line):
            continue
        rest = [line.rstrip() for line in lines[number:] if line.strip()]
        if len(line.strip()) >= LONG_LINE or rest == place.below[: len(rest)]:
            return "\n".join(text.split("\n")[:number])
    return text


def distinctive(line: str) -> bool:
    """Whether a line holds more than brackets."""
    return sum(map(str.isalnum, line)) >= WORD_CHARS


def before_rest_of_line(text: str, place: Place) -> str:
    """The text before its end, if that begins the rest of the line; or before the rest of the line, which it holds.

    Not where that would leave a bracket without its partner: in `f(g(x)` and `)` the text's bracket is its own.
    """
    rest = place.after
    if not rest.strip() or not text:
        return text
    flaws = place.surroundings.flaws(text)
    for size in range(min(len(text), len(rest)), 0, -1):
        if text.endswith(rest[:size]) and between_words(text, len(text) - size) and between_words(rest, size):
            cut = text[:-size]
            if place.surroundings.flaws(cut) <= flaws:
                return cut
    at = text.find(rest.strip())
    if at >= 0 and place.surroundings.flaws(text[:at]) < flaws:
        return text[:at]
    return text


def between_words(text: str, at: int) -> bool:
    """Whether no word goes on over an index."""
    return not (0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum())
