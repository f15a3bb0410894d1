"""Where texts are cut."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.data import FimConfig
from training.spans import LONGEST_BLOCK, block_span, character_span, draw_span, line_span, line_starts

LINE = st.sampled_from(
    [
        "",
        "  ",
        "x = 1",
        "    return x",
        "\treturn",
        "def f():",
        "        y",
        "\x0c",
        "a\x0cb",
        "a\u2028b",
        "größe = '日本'",
        "}",
    ]
)
CODE = st.lists(st.tuples(LINE, st.sampled_from(["\n", "\r\n", "\n", "\r"]))).map(lambda lines: "".join(map("".join, lines)))
TEXT = CODE | st.text()
RANDOM = st.integers(0, 2**32).map(np.random.default_rng)
BREAK = re.compile(r"\r\n|\n|\r")


@given(TEXT, RANDOM)
def test_a_character_span_lies_in_the_text(text: str, random: np.random.Generator) -> None:
    span = character_span(text, random)
    if span is None:
        assert text == ""
    else:
        assert 0 <= span[0] <= span[1] <= len(text)


@given(TEXT)
def test_lines_are_those_of_an_editor(text: str) -> None:
    lines = [text[begin:end] for begin, end in line_starts(text)]
    expected = BREAK.split(text)
    assert lines == (expected[:-1] if expected[-1] == "" and len(expected) > 1 else expected)


@given(TEXT, RANDOM)
def test_a_line_span_goes_to_the_end_of_its_line(text: str, random: np.random.Generator) -> None:
    span = line_span(text, random)
    if span is None:
        return
    begin, end = span
    assert begin < end
    assert not BREAK.search(text[begin:end])
    assert end == len(text) or text[end] in "\r\n"
    before = BREAK.split(text[:begin])[-1]
    assert before.strip() or not text[begin].isspace(), "indentation is no part of the middle"


@given(TEXT, RANDOM)
def test_a_block_never_dedents(text: str, random: np.random.Generator) -> None:
    span = block_span(text, random)
    if span is None:
        return
    begin, end = span
    before = BREAK.split(text[:begin])[-1]
    assert before.strip() == "", "it begins behind the indentation of its first line"
    assert end == len(text) or text[end] in "\r\n"
    lines = BREAK.split(text[begin:end])
    assert 1 <= len(lines) <= LONGEST_BLOCK
    assert lines[0].strip()
    assert lines[-1].strip(), "blank lines do not end a block"
    for line in lines[1:]:
        if line.strip():
            assert len(line) - len(line.lstrip()) >= len(before)


def test_a_block_holds_what_belongs_to_its_first_line() -> None:
    text = "def f(x):\n    if x:\n        return 1\n\n    return 2\n\n\ndef g():\n    pass\n"
    spans = {block_span(text, np.random.default_rng(seed)) for seed in range(300)}
    blocks = {text[span[0] : span[1]] for span in spans if span}
    assert "if x:\n        return 1\n\n    return 2" in blocks
    assert "return 1" in blocks
    assert not any("return 2" in block and "def g" in block and not block.startswith("def f") for block in blocks)


@pytest.mark.parametrize("kind", ["character", "line", "block"])
def test_the_weights_choose_the_kind(kind: str) -> None:
    text = "if a:\n    b = c + d\n    e = f\n"
    config = FimConfig.model_validate({"character": 0, "line": 0, "block": 0, kind: 1})
    function = {"character": character_span, "line": line_span, "block": block_span}[kind]
    for seed in range(20):
        random = np.random.default_rng(seed)
        random.choice(3, p=np.ones(3) / 3)  # what the choice of the kind draws
        assert draw_span(text, config, np.random.default_rng(seed)) == function(text, random)


def test_texts_without_a_place() -> None:
    random = np.random.default_rng(0)
    assert character_span("", random) is None
    for text in ("", "\n\n", "   \n\t\n"):
        assert line_span(text, random) is None
        assert block_span(text, random) is None
