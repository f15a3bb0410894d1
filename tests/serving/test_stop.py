from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from serving.request import CompletionRequest, StopReason
from serving.stop import GrowingText, StopRules

CASES = yaml.safe_load((Path(__file__).parent / "stop_cases.yaml").read_text())
SCOPES = yaml.safe_load((Path(__file__).parent / "scope_cases.yaml").read_text())
BLOCKS = [
    StopRules.of(CompletionRequest(prefix=case["at"].split("¦")[0], language=case["language"], max_lines=8)) for case in SCOPES
]
codes = st.text(st.sampled_from("ab \n\té😀;"), max_size=40) | st.lists(
    st.sampled_from(["else", ":", "\n", "\n    ", "x", "}", "{", " ", "(", ")", "@a", "case"]), max_size=20
).map("".join)
rules = st.sampled_from(BLOCKS) | st.builds(
    StopRules,
    before=st.sampled_from(["", "    ", "  x", "\t"]),
    max_lines=st.sampled_from([None, 1, 2, 8]),
    stop=st.lists(st.sampled_from([";", "ab", "\n\n", "a;b"]), max_size=2).map(tuple),
)


def grow(rules: StopRules, pieces: list[bytes]) -> tuple[str, StopReason | None, list[str]]:
    """The text, the reason, and what could be streamed after each piece."""
    text, streamed = GrowingText(rules), []
    for piece in pieces:
        if reason := text.append(piece):
            return text.text, reason, streamed
        streamed.append(text.settled)
    return text.text, None, streamed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("size", [1, 1000], ids=["by byte", "at once"])
def test_golden(case: dict[str, Any], size: int) -> None:
    data = case["model"].encode()
    rules = StopRules(case["before"], case["max_lines"], tuple(case.get("stop", ())))
    text, reason, _ = grow(rules, [data[at : at + size] for at in range(0, len(data), size)])
    assert (text, reason) == (case["text"], case["reason"])


@pytest.mark.parametrize("case", SCOPES, ids=lambda case: case["name"])
@pytest.mark.parametrize("size", [1, 1000], ids=["by byte", "at once"])
def test_scope(case: dict[str, Any], size: int) -> None:
    prefix, suffix = case["at"].split("¦")
    data = case["model"].encode()
    rules = StopRules.of(CompletionRequest(prefix=prefix, suffix=suffix, language=case["language"], max_lines=20))
    text, reason, _ = grow(rules, [data[at : at + size] for at in range(0, len(data), size)])
    assert (text, reason) == (case["text"], case["reason"])


@given(rules, codes, st.lists(st.integers(1, 5)))
@example(StopRules("    ", 2), "\n\nelse", [2])  # a last line, or the end of the scope before it
@example(StopRules("", None, ("a;b", ";")), "a;b", [2])  # one string inside another
def test_the_cut_does_not_depend_on_how_the_model_splits_the_text(rules: StopRules, model: str, sizes: list[int]) -> None:
    data, pieces = model.encode(), []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    whole = grow(rules, [model.encode()])
    assert grow(rules, [*pieces, data])[:2] == whole[:2]


@given(rules, codes, st.booleans())
@example(BLOCKS[0], "\n\ncaseelse", False)  # no `case` in the end: the scope was over before the blank line
def test_what_is_streamed_is_never_taken_back(rules: StopRules, model: str, cut_off: bool) -> None:
    text, reason, streamed = grow(rules, [bytes([byte]) for byte in model.encode()])
    if reason is None and cut_off:
        text = rules.whole_lines(text)
    assert all(text.startswith(part) for part in streamed)


@given(st.text(st.sampled_from("aé😀"), max_size=10), st.integers(0, 40))
def test_never_half_a_character(model: str, length: int) -> None:
    text, reason, _ = grow(StopRules("", None), [bytes([byte]) for byte in model.encode()[:length]])
    assert reason is None
    assert model.startswith(text)
    assert len(text.encode()) > min(length, len(model.encode())) - 4


def test_bytes_that_are_no_utf8_end_the_text() -> None:
    assert grow(StopRules("", None), [b"ab\xc3", b"\xff", b"c"])[:2] == ("ab", StopReason.EOS)


def test_cut_off_keeps_whole_lines_or_all_of_an_only_line() -> None:
    assert StopRules("", 8).whole_lines("a\nb = (") == "a"
    assert StopRules("", 8).whole_lines("a = (") == "a = ("
    assert StopRules("", None).whole_lines("a\nb = (") == "a\nb = ("


@pytest.mark.parametrize(("suffix", "lines"), [("", 8), ("\nx", 8), ("  \nx", 8), (")\n", 8), (") + 1\n", 1), ("x", 1)])
def test_text_after_the_cursor_on_its_line_leaves_room_for_one_line(suffix: str, lines: int) -> None:
    request = CompletionRequest(prefix="a\n  f(", suffix=suffix, max_lines=8)
    found = StopRules.of(request)
    assert (found.before, found.max_lines) == ("  f(", lines)
    assert StopRules.of(CompletionRequest(prefix="f(", suffix=suffix)).max_lines is None
