"""Where the cursors of an evaluation stand."""

from pathlib import Path

import pytest

from codelm.corpus.read import read_rows
from codelm.evaluation.places import SHORTEST_REST, draw_places


@pytest.fixture(scope="module")
def texts(corpus: Path) -> list[str]:
    return [row["content"] for row in read_rows(corpus, "valid")]


@pytest.mark.parametrize("whole_line", [True, False])
def test_places_are_verbatim_and_a_function_of_the_seed(texts: list[str], whole_line: bool) -> None:
    places = draw_places(texts, 200, 1, whole_line)
    assert len(places) == 200
    assert draw_places(texts, 200, 1, whole_line) == places
    assert draw_places(texts, 200, 2, whole_line) != places
    for prefix, rest, suffix in places:
        assert prefix + rest + suffix in texts
        assert "\n" not in rest
        assert len(rest) >= SHORTEST_REST
        assert rest == rest.rstrip()
        assert suffix == "" or suffix.split("\n")[0].strip() == "", "only white space follows on the line"
        before = prefix.split("\n")[-1].strip()
        assert not before if whole_line else before
        assert not whole_line or not rest[0].isspace(), "the cursor is behind the indentation"


def test_there_are_no_more_places_than_lines() -> None:
    assert draw_places(["a = b\n}\n", "\n\n"], 10, 0)[0].rest in {" = b", "= b"}
    assert [place.rest for place in draw_places(["abc\n}\n", "\n\n"], 10, 0, whole_line=True)] == ["abc"]
    assert draw_places(["abc\n"], 10, 0) == [], "no room for a cursor in the line"
    assert draw_places([], 10, 0) == draw_places(["x\ny\n"], 10, 0) == []
