"""What the benchmark of served completions draws and counts."""

from pathlib import Path
from typing import Any

import pytest
from serving_quality import Case, Completion, blocks_of, chosen, curve, gains, plot, query_of

from codelm.errors import UserError
from codelm.evaluation.places import Place

TEXT = "x = 1\nif x:\n    y = 2\n\n    z = 3\nw = 4\n"


def test_a_block_is_a_line_and_what_is_indented_more() -> None:
    assert blocks_of(TEXT) == [Place("x = 1\n", "if x:\n    y = 2\n\n    z = 3", "\nw = 4\n")]
    assert blocks_of("if x:\n" + "    y\n" * 8) == [], "longer than anybody asks for"


def test_what_is_to_be_written_is_not_asked_along() -> None:
    row: Any = {"path": "a.py"}
    query = query_of(Case("block", Place("x = 1\n", "if x:\n    y = 2", "\nw = 4\n"), row))
    assert (query.text[: query.cursor], query.text[query.cursor :], query.lines) == ("x = 1\n", "\nw = 4\n", 2)


def test_the_curve_begins_with_the_surest() -> None:
    row: Any = {}
    cases = [Case("line", Place("", text, ""), row) for text in ("a", "b", "c", "d")]
    answers = [Completion(text, sure, bool(text), 1.0) for text, sure in (("a", 0.9), ("x", 0.5), ("c", 0.7), ("", 0.99))]
    points = curve(cases, answers)
    assert [(shown, right.value, sure) for shown, right, sure in points] == [(0.25, 1, 0.9), (0.5, 1, 0.7), (0.75, 0.6667, 0.5)]
    assert all(right.low < right.value <= right.high for _, right, _ in points)


def test_what_is_not_shown_and_what_is_always_shown_is_not_in_the_curve() -> None:
    row: Any = {}
    cases = [
        Case("line", Place("", "a", ""), row),
        Case("line", Place("", "b", ""), row),
        Case("block", Place("", "c", ""), row),
    ]
    answers = [Completion("a", 0.9, True, 1.0), Completion("b", 0.8, False, 1.0), Completion("c", 0.7, True, 1.0)]
    assert [point.shown for point in curve(cases, answers)] == [0.5]


def test_a_gain_is_place_by_place() -> None:
    """Two more are right, one of ten is wrong that was right: the interval is that of differences."""
    row: Any = {}
    cases = [Case("line", Place("", "abcd", ""), row) for _ in range(10)]

    def answers(right: str) -> list[Completion]:
        return [Completion("abcd" if one == "y" else "", 0.5, True, 1.0) for one in right]

    (found,) = gains(cases, answers("yynnnnnnnn"), answers("nnynnnnnnn")).values()
    value, low, high = found["exact_match"]
    assert value == 0.1
    assert low < 0 < high
    assert found["edit_similarity"][0] == 0.1
    (same,) = gains(cases, answers("yyyyynnnnn"), answers("yyyyynnnnn")).values()
    assert same["exact_match"] == [0, 0, 0]


def test_a_model_without_a_gate_cannot_be_asked_for_a_precision(gguf: Path) -> None:
    assert "precision-0.5" not in chosen(gguf, None)
    assert list(chosen(gguf, ["files", "plain"])) == ["files", "plain"]
    with pytest.raises(UserError, match="no gate"):
        chosen(gguf, ["precision-0.5"])


def test_a_picture_of_variants_of_which_one_shows_nothing(tmp_path: Path) -> None:
    row: Any = {}
    cases = [Case("line", Place("", "a", ""), row)] * 3
    answers = [Completion("a", 0.9, True, 1.0), Completion("b", 0.8, True, 1.0), Completion("", 0.1, False, 1.0)]
    results = {"plain": {"curve": curve(cases, answers)}, "silent": {"curve": curve(cases, answers[2:] * 3)}}
    plot(results, tmp_path / "shown.svg")
    assert "silent" in (tmp_path / "shown.svg").read_text(encoding="utf-8")
