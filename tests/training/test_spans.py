"""Where texts are cut."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.data import FimConfig
from training.spans import (
    LONGEST_BLOCK,
    block_span,
    character_span,
    draw_kind,
    draw_span,
    empty_span,
    line_span,
    line_starts,
)
from training.syntax_spans import syntax_span

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


KINDS = ("character", "ast", "line", "block", "empty")
NOTHING = dict.fromkeys(KINDS, 0.0)


def only(**weights: float) -> FimConfig:
    return FimConfig.model_validate(NOTHING | weights)


@given(TEXT, RANDOM)
def test_an_empty_span_has_no_middle_or_nothing_behind_it(text: str, random: np.random.Generator) -> None:
    begin, end = empty_span(text, random) or (-1, -1)
    assert 0 <= begin <= end <= len(text)
    assert begin == end or end == len(text)
    # a line break at the end does not begin a line of its own
    assert len(BREAK.split(text[begin:end])) <= LONGEST_BLOCK + 1


@given(TEXT, RANDOM, st.sampled_from(KINDS))
def test_no_middle_ends_where_a_window_cut_the_text_off(text: str, random: np.random.Generator, kind: str) -> None:
    span = draw_span(text, only(**{kind: 1}), random, "Python", ends=False)
    if span is None or (span[0] == span[1] and not text):
        return
    end = span[1]
    assert end < len(text), "something follows"
    if kind in ("line", "block"):
        assert text[end] in "\r\n"


@pytest.mark.parametrize("kind", ["line", "block"])
def test_a_blank_line_is_never_drawn(kind: str) -> None:
    for seed in range(50):
        assert draw_span("\n\n  \n\nx = 1\n\n\n\n", only(**{kind: 1}), np.random.default_rng(seed)) is not None


def test_both_kinds_of_empty_spans() -> None:
    text = "\n".join(f"line {number}" for number in range(40))
    spans = [empty_span(text, np.random.default_rng(seed)) for seed in range(200)]
    assert 70 < sum(span is not None and span[0] == span[1] for span in spans) < 130
    assert all(span[0] >= text.index("line 28") for span in spans if span and span[0] < span[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_choose_the_kind(kind: str) -> None:
    text = "if a:\n    b = c + d\n    e = f(g, h)\n"
    functions = {
        "character": character_span,
        "line": line_span,
        "block": block_span,
        "empty": empty_span,
        "ast": lambda text, random: syntax_span(text, "Python", random),
    }
    config = only(**{kind: 1, "indent_in_middle": 0})
    for seed in range(20):
        random = np.random.default_rng(seed)
        random.random()  # what the choice of the kind draws
        assert draw_span(text, config, np.random.default_rng(seed), "Python") == functions[kind](text, random)


def test_the_weights_are_shares() -> None:
    counts = Counter(draw_kind(only(character=3, ast=1, empty=4), KINDS, np.random.default_rng(seed)) for seed in range(800))
    assert set(counts) == {"character", "ast", "empty"}
    assert counts["character"] == pytest.approx(300, abs=50)
    assert counts["ast"] == pytest.approx(100, abs=40)


@pytest.mark.parametrize("language", ["Zig", None, "Python"])
def test_without_a_node_another_kind_is_drawn(language: str | None) -> None:
    text = "# nothing but a comment\n# and another one"
    for seed in range(50):
        span = draw_span(text, only(ast=1, line=0.1), np.random.default_rng(seed), language)
        assert span is not None
        assert span[1] in (text.index("\n"), len(text))
        assert draw_span(text, only(ast=1), np.random.default_rng(seed), language) is None


@given(TEXT, RANDOM, st.sampled_from(["ast", "line", "block"]), st.booleans())
def test_the_indentation_of_a_line_is_in_the_middle_or_before_it(
    text: str, random: np.random.Generator, kind: str, inside: bool
) -> None:
    span = draw_span(text, only(**{kind: 1, "indent_in_middle": float(inside)}), random, "Python")
    if span is None:
        return
    line = BREAK.split(text[: span[0]])[-1]
    if line.strip():
        return  # it begins inside of a line
    if inside:
        assert line == ""
    else:
        assert not text[span[0] : span[1]][:1].isspace()


def test_half_of_the_middles_hold_their_indentation() -> None:
    text = "if a:\n    b()\n"
    middles = [draw_span(text, only(block=1), np.random.default_rng(seed)) for seed in range(400)]
    second = [text[span[0] : span[1]] for span in middles if span and "if" not in text[span[0] : span[1]]]
    assert set(second) == {"    b()", "b()"}
    assert 0.4 < second.count("b()") / len(second) < 0.6


def test_texts_without_a_place() -> None:
    random = np.random.default_rng(0)
    assert character_span("", random) is None
    for text in ("", "\n\n", "   \n\t\n"):
        assert line_span(text, random) is None
        assert block_span(text, random) is None
