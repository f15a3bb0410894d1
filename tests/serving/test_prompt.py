from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codelm import fim
from serving import prompt
from serving.llamacpp import LlamaCpp

TOKENS = fim.FimTokens(*range(1000, 1007))
lines = st.lists(st.text(st.sampled_from("ab =é"), max_size=30), max_size=200)
lone_line = st.integers(0, 3000).map(lambda length: ["x" * length])


def encode(text: str) -> list[int]:
    """A token a byte: token counts that are easy to reason with."""
    return list(text.encode())


def build(prefix: str, suffix: str, budget: int) -> tuple[list[int], list[int]]:
    """The prefix and the suffix tokens of a prompt, which is checked for its form."""
    ids = prompt.build(TOKENS, fim.Order.SPM, encode, prefix, suffix, budget)
    assert len(ids) <= budget
    middle = ids.index(TOKENS.fim_middle)
    shown_suffix, shown_prefix = ids[2:middle], ids[middle + 1 :]
    assert ids == fim.prompt(TOKENS, fim.Order.SPM, shown_prefix, shown_suffix)
    return shown_prefix, shown_suffix


@given(lines | lone_line, lines | lone_line, st.integers(8, 2000))
@example(["=", "==", "======", "=====é", ""], [], 24)
def test_the_prompt_is_what_stands_around_the_cursor(before: list[str], after: list[str], budget: int) -> None:
    prefix, suffix = "\n".join(before), "\n".join(after)
    shown_prefix, shown_suffix = build(prefix, suffix, budget)
    assert prefix.encode().endswith(bytes(shown_prefix))
    assert suffix.encode().startswith(bytes(shown_suffix))
    room = budget - 3
    assert len(shown_suffix) == min(len(suffix.encode()), room // 4)
    left = room - len(shown_suffix)
    before_line, line = prefix[: prefix.rfind("\n") + 1].encode(), before[-1].encode() if before else b""
    kept_free = max(0, left // prompt.LINE_SHARE - len(line))
    if len(before_line) + len(line) + kept_free <= left:
        assert bytes(shown_prefix) == prefix.encode(), "all of it fits"
    else:
        assert len(shown_prefix) >= left // 2 - kept_free, "the window is filled well"


@given(st.integers(40, 400), st.lists(st.integers(0, 40), min_size=200, max_size=300))
def test_typing_moves_the_window_seldom(budget: int, lengths: list[int]) -> None:
    text, moves, last = "", 0, 0
    for length in lengths:
        text += "x" * length + "\n"
        start = len(text) - len(build(text, "", budget)[0])
        assert start >= last
        moves += start > last
        last = start
    assert moves <= 8 * len(text) / budget


def test_the_window_starts_at_a_multiple_of_32_lines_where_the_budget_lets_it() -> None:
    text = "".join(f"{number:09}\n" for number in range(500))  # 10 tokens a line
    starts = {int(bytes(build(text[:end], "", 1003)[0][:9])) for end in range(500, 5000, 10)}
    assert starts == {*range(0, 448, 32)}


def test_a_huge_line_is_cut_in_steps() -> None:
    shown = [build("x = 1\n" + "y" * length, "", 403)[0] for length in range(50_000, 50_100)]
    lengths = [len(ids) for ids in shown]
    assert min(lengths) > 200
    assert sum(after != before + 1 for before, after in pairwise(lengths)) <= 1


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        build("a", "b", 5)


def test_a_served_prompt_is_the_beginning_of_a_training_example(gguf: Path) -> None:
    model = LlamaCpp(gguf)
    before, middle, after = "def f(x):\n    <|fim_suffix|>\n    return ", "x + 1", "\n\n\ndef g():\n    pass\n"
    parts = [model.encode(text) for text in (before, middle, after)]
    served = prompt.build(model.fim, fim.Order.SPM, model.encode, before, after, model.context_length)
    example = fim.example(model.fim, fim.Order.SPM, *parts)
    model.close()
    assert example[: len(served)] == served
    assert example[len(served) :] == [*parts[1], model.fim.endoftext]


REPOSITORY = prompt.Repository("me/mine", (("a.py", "x = 1\n"), ("lib/b.py", "y = 2\n" * 10)), "c.py", 60)


def test_the_repository_stands_first() -> None:
    plain = prompt.build(TOKENS, fim.Order.SPM, encode, "prefix", "suffix", 1000)
    ids = prompt.build(TOKENS, fim.Order.SPM, encode, "prefix", "suffix", 1000, REPOSITORY)
    front = fim.repository(TOKENS, encode, "me/mine", REPOSITORY.files, "c.py", 60)
    assert ids == front + plain


@given(st.integers(40, 1200), lines)
def test_the_repository_takes_its_share_at_most(budget: int, before: list[str]) -> None:
    prefix, suffix = "\n".join(before), "z" * 2000
    ids = prompt.build(TOKENS, fim.Order.SPM, encode, prefix, suffix, budget, REPOSITORY)
    at = ids.index(TOKENS.fim_prefix)
    assert len(ids) <= budget
    assert at <= prompt.repository_budget(budget)
    fits = [count for count in (0, 1, 2) if len(front_of(count)) <= prompt.repository_budget(budget)]
    assert ids[:at] == (front_of(fits[-1]) if fits else [])
    plain = prompt.build(TOKENS, fim.Order.SPM, encode, prefix, suffix, budget)
    assert ids[at : ids.index(TOKENS.fim_middle)] == plain[: plain.index(TOKENS.fim_middle)], "the suffix stays"


def front_of(count: int) -> list[int]:
    """What stands before the prompt if so many files are in it."""
    return REPOSITORY._replace(files=REPOSITORY.files[:count]).ids(TOKENS, encode)


@given(st.text(st.sampled_from("ab ()\n"), max_size=400), st.text(st.sampled_from("ab\n"), max_size=40))
def test_a_change_beyond_the_suffix_window_changes_nothing(suffix: str, other: str) -> None:
    limit = 20
    kept = suffix[: limit * prompt.CHARS_PER_TOKEN].ljust(limit, "a")
    assert prompt.suffix_window(encode, kept + suffix, limit) == prompt.suffix_window(encode, kept + other, limit)
