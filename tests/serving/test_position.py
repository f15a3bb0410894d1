import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.position import END_OF_LINE, PositionEncoding, offset_at

TEXT = "é = 1\r\na😀b\nlast"


@pytest.mark.parametrize(
    ("line", "character", "encoding", "rest"),
    [
        (0, 0, "utf-16", TEXT),
        (0, 5, "utf-16", "\r\na😀b\nlast"),
        (1, 1, "utf-16", "😀b\nlast"),
        (1, 3, "utf-16", "b\nlast"),
        (1, 2, "utf-32", "b\nlast"),
        (1, 5, "utf-8", "b\nlast"),
        (2, 4, "utf-16", ""),
    ],
)
def test_positions(line: int, character: int, encoding: str, rest: str) -> None:
    assert TEXT[offset_at(TEXT, line, character, PositionEncoding(encoding)) :] == rest


@pytest.mark.parametrize(
    ("line", "character", "encoding", "message"),
    [
        (3, 0, "utf-16", "line 3 is outside the text, whose last line is 2"),
        (2, 5, "utf-16", "character 5 is outside line 2, which has 4 in utf-16"),
        (0, 6, "utf-32", "character 6 is outside line 0"),
        (1, 2, "utf-16", "inside a character"),
        (1, 3, "utf-8", "inside a character"),
    ],
)
def test_positions_that_are_none(line: int, character: int, encoding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        offset_at(TEXT, line, character, PositionEncoding(encoding))


@given(st.text(st.sampled_from("aé😀\r\n \u2028")), st.sampled_from(PositionEncoding), st.data())
def test_every_place_has_a_position(text: str, encoding: PositionEncoding, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(text)))
    if text[index - 1 : index + 1] == "\r\n" and index:
        index -= 1  # there is no position between the two
    *_, line = END_OF_LINE.split(text[:index])
    units = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
    character = len(line.encode(encoding + ("" if units == 1 else "-le"))) // units
    assert offset_at(text, len(END_OF_LINE.findall(text[:index])), character, encoding) == index
