"""The suffix that stays."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.workspace.suffix import DOCUMENTS, SuffixSnapshots, closers_of

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "suffix_cases.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_cases(case: dict[str, Any]) -> None:
    snapshots = SuffixSnapshots()
    shown = [snapshots.of("a", *text.split("|")) for text in case["texts"]]
    first, last = case["texts"][0].split("|")[1], case["texts"][-1].split("|")[1]
    assert shown[-1] == (first if case["same"] else last)


@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("f(){}'\n"), max_size=6), st.text(st.sampled_from(")}'\nx"), max_size=6)), max_size=20
    )
)
def test_what_is_shown_is_the_suffix_but_for_closers(edits: list[tuple[str, str]]) -> None:
    snapshots = SuffixSnapshots()
    for prefix, suffix in edits:
        shown = snapshots.of("a", prefix, suffix)
        assert suffix.endswith(shown)
        assert set(suffix[: len(suffix) - len(shown)]) <= set(")]}\"'`")


def test_documents_are_told_apart_and_not_all_kept() -> None:
    snapshots = SuffixSnapshots()
    assert snapshots.of("a", "f", "\n1") == "\n1"
    assert snapshots.of("b", "f(", ")\n1") == ")\n1"
    for number in range(DOCUMENTS):
        snapshots.of(number, "", "")
    assert snapshots.of("a", "f(", ")\n1") == ")\n1"


def test_closers() -> None:
    assert closers_of("f(a[0], {") == "})"
    assert closers_of("f('(") == ")')"
    assert closers_of("f('('") == ")"
    assert closers_of("f(a)") == ""
