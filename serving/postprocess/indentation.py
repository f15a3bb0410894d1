"""Lines are indented as the file is: by tabs, or by as many blanks a level as it takes."""

from collections.abc import Sequence

from serving.lexer import balance
from serving.postprocess.place import Place
from serving.postprocess.style import TAB, WIDTHS, aligned, lead
from serving.scope import TAB_WIDTH, indentation


def apply(text: str, place: Place) -> str:
    """The text in the file's style; as it is if either has none, or what the text means is not clear."""
    if "\n" not in text and not lead(text):
        return text
    style = place.style
    if style is None:
        return text
    first, *rest = text.split("\n")
    first = within_block(first, style, place)
    if style == TAB:
        rest = with_tabs(rest, first, place)
    else:
        rest = with_blanks([expand(line, len(style)) for line in rest], first, len(style), place)
    return "\n".join([first, *rest])


def with_tabs(lines: list[str], first: str, place: Place) -> list[str]:
    """The lines, those indented by blanks only with tabs instead."""
    widths = [len(level(line)) for line in lines if line.strip() and TAB not in lead(line)]
    unit = unit_of(lines, [width for width in widths if width], depth(first, TAB_WIDTH, place))
    if unit is None:
        return lines
    tabbed = [TAB * (len(level(line)) // unit) + line[len(level(line)) :] for line in lines]
    return [line if not line.strip() or TAB in lead(line) else new for line, new in zip(lines, tabbed, strict=True)]


def with_blanks(lines: list[str], first: str, unit: int, place: Place) -> list[str]:
    """The lines, with `unit` blanks a level if they show another number."""
    filled = [line for line in lines if line.strip()]
    expected = depth(first, unit, place)
    opened = expected * unit > indentation(place.before)
    hanging = not opened and balance(first, place.language, None).opens
    if not filled or not expected or hanging:
        return lines
    width = len(level(filled[0]))
    if width <= expected * unit and not any(len(level(line)) % unit for line in filled):
        return lines
    other = width // expected
    if other not in WIDTHS or any(len(level(line)) % other for line in filled) or width % expected:
        return lines
    return [" " * (len(level(line)) // other * unit) + line[len(level(line)) :] if line.strip() else line for line in lines]


def unit_of(lines: Sequence[str], widths: Sequence[int], expected: int) -> int | None:
    """How many blanks a level some lines have, by the level that the first of them should have; None if unclear."""
    if not widths:
        return None
    filled = next(line for line in lines if line.strip())
    expected -= filled.lstrip()[0] in ")]}"
    told = [len(level(filled)) // expected] if expected > 0 and len(level(filled)) % expected == 0 else []
    return next((unit for unit in (*told, *WIDTHS) if unit in WIDTHS and not any(width % unit for width in widths)), None)


def depth(first: str, unit: int, place: Place) -> int:
    """The level that the line after the cursor's should have, by what the text's first line makes of it."""
    line = place.before + first
    opened = place.language.begins_block(line) and line.rstrip()[-1] not in "(["
    return indentation(place.before) // unit + opened


def within_block(first: str, style: str, place: Place) -> str:
    """The text's first line, on a blank one, without blanks that indent it deeper than its block."""
    blanks = lead(first)
    if not blanks or not place.before or place.before.strip() or not place.above:
        return first
    unit = TAB_WIDTH if style == TAB else len(style)
    above = place.above[-1]
    room = indentation(above) + unit * place.language.begins_block(above) - indentation(place.before)
    if indentation(place.before + blanks + "|") - indentation(place.before) <= max(0, room):
        return first
    return style * (max(0, room) // unit) + first[len(blanks) :]


def expand(line: str, unit: int) -> str:
    """The line with blanks for the tabs that it begins with."""
    blanks = lead(line)
    return blanks.expandtabs(unit) + line[len(blanks) :]


def level(line: str) -> str:
    """The blanks before a line's text that are its level: the last one before a comment's star is not."""
    blanks = lead(line)
    return blanks[:-1] if aligned(line) else blanks
