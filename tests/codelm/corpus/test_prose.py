"""Where comments and docstrings are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.corpus.languages import language_map
from codelm.corpus.prose import by_half, marks, prose_spans, prose_tokens

CASES = yaml.safe_load(Path(__file__).with_name("prose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['language']}-{case['text'][:10]}")
def test_prose(case: dict[str, Any]) -> None:
    data = case["text"].encode()
    assert [data[begin:end].decode() for begin, end in prose_spans(data, case["language"])] == case["prose"]


def test_every_language_has_its_marks() -> None:
    assert set(marks()) == set(language_map().names)


def test_where_a_grammar_finds_no_end_the_marks_stand_in() -> None:
    data = b"((a)" * 5_000 + b" // b\n"
    assert [data[begin:end] for begin, end in prose_spans(data, "C")] == [b"// b"]


def test_marks_and_grammar_nearly_agree() -> None:
    differing = total = 0
    for file in sorted(Path(os.__file__).parent.glob("[a-d]*.py")):
        data = file.read_bytes()
        by_tree, by_marks = np.zeros(len(data), dtype=bool), np.zeros(len(data), dtype=bool)
        for begin, end in prose_spans(data, "Python"):
            by_tree[begin:end] = True
        for match in marks()["Python"].finditer(data):
            by_marks[match.start() : match.end()] = match.lastgroup is not None
        differing += np.count_nonzero(by_tree != by_marks)
        total += len(data)
    assert differing < 0.1 * total


@settings(max_examples=60)
@given(st.sampled_from(sorted(marks())), st.text(alphabet="ab \n\"'#/*-;(){}[]%!`\\=<>@é", max_size=80))
def test_any_text_has_spans_in_order(language: str, text: str) -> None:
    data = text.encode()
    spans = prose_spans(data, language)
    assert spans.shape[1:] == (2,)
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    assert not len(spans) or spans[-1, 1] <= len(data)


def test_a_token_is_prose_by_half_of_its_bytes() -> None:
    inside = np.array([0, 1, 1, 0, 0, 1, 1, 1], dtype=bool)
    lengths = np.array([2, 0, 1, 3, 2])
    assert by_half(inside, lengths).tolist() == [True, False, True, False, True]
    assert by_half(np.zeros(0, dtype=bool), np.zeros(0, dtype=int)).tolist() == []


def test_tokens_of_a_text() -> None:
    data = b"x = 1  # why\ny\n"
    tokens = [b"x", b" =", b" ", b"1", b" ", b" #", b" why", b"\n", b"y", b"\n"]
    prose = prose_tokens(data, "Python", np.array([len(token) for token in tokens]))
    assert [token for token, is_prose in zip(tokens, prose, strict=True) if is_prose] == [b" #", b" why"]
