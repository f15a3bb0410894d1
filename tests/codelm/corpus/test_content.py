"""What a text tells against itself: the table in content.yaml, and what holds for all texts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.corpus import Filters
from codelm.corpus.content import content_rejection, generated_marker, markers
from codelm.corpus.reasons import REASONS
from codelm.corpus.sources.base import Rejection

CASES = yaml.safe_load((Path(__file__).parent / "content.yaml").read_text(encoding="utf-8"))


def text_of(case: dict[str, Any]) -> str:
    """The text of a case; {} in it is the number of the repetition."""
    repeat = case.get("repeat")
    if repeat is None:
        return str(case["text"])
    unit = "".join(re.sub(r"\{(:\d+)?\}", str(number), case["text"]) for number in range(repeat))
    return str(case.get("prefix", "")) + "\n".join([unit] * case.get("lines", 1))


def judged(text: str) -> Rejection | None:
    """Both questions, as the build asks them."""
    return generated_marker(text) or content_rejection(text, "Python", Filters())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_contents(case: dict[str, Any]) -> None:
    found = judged(text_of(case))
    assert (found.reason if found else None) == case["reason"]
    if found:
        assert found.detail == case.get("detail", found.detail)
        assert found.detail
        assert found.reason in REASONS


@given(st.text(max_size=400))
def test_any_text_is_judged(text: str) -> None:
    found = judged(text)
    assert found is None or found.reason in REASONS


def test_every_marker_needs_a_cue() -> None:
    for case in CASES:
        text = text_of(case).lower()
        assert not markers().start.search(text[:600]) or any(cue in text for cue in markers().start_cues)
        assert not markers().comment.search(text) or any(cue in text for cue in markers().comment_cues)


def test_thresholds_are_the_settings() -> None:
    text = "a = 1\nb = 2\n"
    assert content_rejection(text, "Python", Filters(min_lines=2)) is None
    repeated = "x = 0\n" * 20
    assert content_rejection(repeated, "Python", Filters(max_duplicate_line_share=0.95)) is None
    table = "  1, 255, 17, -3, 40, 99, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,\n" * 4
    found = content_rejection(table, "Python", Filters())
    assert found is not None
    assert found.reason == "encoded_data"
    assert content_rejection(table, "Python", Filters(max_encoded_share=1)) is None
