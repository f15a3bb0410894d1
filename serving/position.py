"""Positions in a text, as the Language Server Protocol counts them."""

import re
from enum import StrEnum

END_OF_LINE = re.compile(r"\r\n|\n|\r")


class PositionEncoding(StrEnum):
    """What `character` counts: UTF-8 bytes, UTF-16 code units or code points."""

    UTF_8 = "utf-8"
    UTF_16 = "utf-16"
    UTF_32 = "utf-32"


_CODECS = {
    PositionEncoding.UTF_8: ("utf-8", 1),
    PositionEncoding.UTF_16: ("utf-16-le", 2),
    PositionEncoding.UTF_32: ("utf-32-le", 4),
}


def offset_at(text: str, line: int, character: int, encoding: PositionEncoding = PositionEncoding.UTF_16) -> int:
    """The index into `text` of a position, both counted from 0.

    Raises ValueError if the text has no such line, the line no such character, or the position splits a character.
    """
    start = 0
    for number in range(line):
        end = END_OF_LINE.search(text, start)
        if end is None:
            raise ValueError(f"line {line} is outside the text, whose last line is {number}")
        start = end.end()
    end = END_OF_LINE.search(text, start)
    content = text[start : end.start() if end else len(text)]
    codec, unit = _CODECS[encoding]
    encoded = content.encode(codec)
    if character * unit > len(encoded):
        raise ValueError(f"character {character} is outside line {line}, which has {len(encoded) // unit} in {encoding.value}")
    try:
        return start + len(encoded[: character * unit].decode(codec))
    except UnicodeDecodeError:
        raise ValueError(f"character {character} of line {line} is inside a character ({encoding.value})") from None
