"""The prompt format: what is served is the beginning of what was trained, and nothing is lost in either order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.fim import (
    OVERHEAD,
    SPECIAL_TOKENS,
    FimTokens,
    Order,
    example,
    file_content,
    file_header,
    longest_name,
    prompt,
    repo_header,
    repository,
    shortened,
)

TOKENS = FimTokens(*range(100, 107))
TEXT = st.lists(st.integers(0, 99), max_size=20)


def parts(ids: list[int], order: Order) -> tuple[list[int], list[int], list[int]]:
    """Prefix, middle and suffix of an example; in SPM order the middle holds the prefix, for no token parts them."""
    suffix_at, middle_at = ids.index(TOKENS.fim_suffix), ids.index(TOKENS.fim_middle)
    assert ids[0] == TOKENS.fim_prefix
    assert ids[-1] == TOKENS.endoftext
    if order is Order.SPM:
        assert suffix_at == 1
    return ids[1:suffix_at], ids[middle_at + 1 : -1], ids[suffix_at + 1 : middle_at]


@given(TEXT, TEXT, TEXT, st.sampled_from(Order))
def test_an_example_is_its_prompt_then_the_middle_then_the_end(
    prefix: list[int], middle: list[int], suffix: list[int], order: Order
) -> None:
    ids = example(TOKENS, order, prefix, middle, suffix)
    assert ids == [*prompt(TOKENS, order, prefix, suffix), *middle, TOKENS.endoftext]
    assert len(ids) == OVERHEAD + len(prefix) + len(middle) + len(suffix)


@given(TEXT, TEXT, TEXT)
def test_both_orders_hold_the_three_texts(prefix: list[int], middle: list[int], suffix: list[int]) -> None:
    assert parts(example(TOKENS, Order.PSM, prefix, middle, suffix), Order.PSM) == (prefix, middle, suffix)
    assert parts(example(TOKENS, Order.SPM, prefix, middle, suffix), Order.SPM) == ([], prefix + middle, suffix)


@given(TEXT, TEXT, TEXT)
def test_typing_only_appends_to_an_spm_prompt(prefix: list[int], typed: list[int], suffix: list[int]) -> None:
    before, after = (prompt(TOKENS, Order.SPM, text, suffix) for text in (prefix, prefix + typed))
    assert after == before + typed


def test_the_orders_token_by_token() -> None:
    pre, mid, suf, end = TOKENS.fim_prefix, TOKENS.fim_middle, TOKENS.fim_suffix, TOKENS.endoftext
    assert example(TOKENS, Order.PSM, [1, 2], [3], [4]) == [pre, 1, 2, suf, 4, mid, 3, end]
    assert example(TOKENS, Order.SPM, [1, 2], [3], [4]) == [pre, suf, 4, mid, 1, 2, 3, end]


def test_ids_are_looked_up_by_the_texts_of_the_tokens() -> None:
    ids = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    assert FimTokens.lookup(ids.get) == FimTokens(*range(7))
    del ids["<|fim_middle|>"], ids["<|file_sep|>"]
    with pytest.raises(ValueError, match=r"has no <\|fim_middle\|>, <\|file_sep\|>"):
        FimTokens.lookup(ids.get)


def test_the_names_of_a_repository_and_of_its_files() -> None:
    def encode(text: str) -> list[int]:
        return [ord(character) for character in text]

    assert repo_header(TOKENS, encode, "a/b") == [TOKENS.repo_name, *encode("a/b\n")]
    assert file_header(TOKENS, encode, "c.py") == [TOKENS.file_sep, *encode("c.py\n")]


def test_the_files_of_a_repository() -> None:
    def encode(text: str) -> list[int]:
        return [ord(character) for character in text]

    files = [("a.py", "x = 1"), ("a.py", "y = 2\n"), ("b/b.py", "")]
    expected = [
        *(TOKENS.repo_name, *encode("me\n")),
        *(TOKENS.file_sep, *encode("a.py\nx = 1\n")),
        *(TOKENS.file_sep, *encode("a.py\ny = 2\n")),
        *(TOKENS.file_sep, *encode("b/b.py\n\n")),
        *(TOKENS.file_sep, *encode("c.py\n")),
    ]
    assert repository(TOKENS, encode, "me", files, "c.py", 20) == expected
    short = repository(TOKENS, encode, "repository", [], "deep/down.py", 4)
    assert short == [TOKENS.repo_name, *encode("ory\n"), TOKENS.file_sep, *encode(".py\n")]
    assert file_content(encode, "x") == encode("x\n")


@given(TEXT.map(lambda ids: [7, *ids]), st.integers(1, 30))
def test_the_end_of_a_long_name_stays(header: list[int], longest: int) -> None:
    short = shortened(header, longest)
    assert short[0] == 7
    assert len(short) == min(len(header), longest + 1)
    assert header[len(header) - len(short) + 1 :] == short[1:]
    assert longest_name(511) == 64
