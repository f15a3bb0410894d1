"""The open file's rows after any edits are those of a file opened anew, and nothing crosses the cursor."""

import inspect
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.tokenizer import FILE, Tokenizer
from serving.mixture.open_file import HEAD_BLOCKS, LONGEST_BLOCK, RENUMBER, OpenFile, blocks
from serving.mixture.table import ORDER, Table

LINES = st.sampled_from(["a = b\n", "\n", "  return a\n", "a = b", " ", "\n\n", "c", "x = [1, 2]\n"])
TEXT = st.lists(LINES, max_size=30).map("".join)


def encode(text: str) -> list[int]:
    """A character a token."""
    return [ord(character) for character in text]


def multiset(table: Table) -> list[tuple[int, int, int]]:
    return sorted(zip(table.near.tolist(), table.far.tolist(), table.following.tolist(), strict=True))


@given(edits=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_after_edits_it_is_as_if_opened_anew(edits: list[tuple[str, str]]) -> None:
    kept = OpenFile(encode)
    for prefix, suffix in edits:
        anew = OpenFile(encode)
        assert kept.update(prefix, suffix) == anew.update(prefix, suffix)
        assert multiset(kept.table) == multiset(anew.table)
        assert kept.distances[kept.table.tags].sum() == anew.distances[anew.table.tags].sum()


@given(text=TEXT, cursors=st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_a_cursor_that_moves_is_an_edit(text: str, cursors: list[int]) -> None:
    kept = OpenFile(encode)
    for cursor in cursors:
        anew = OpenFile(encode)
        kept.update(text[:cursor], text[cursor:])
        anew.update(text[:cursor], text[cursor:])
        assert multiset(kept.table) == multiset(anew.table)


@pytest.mark.parametrize("prefix", ["".join(f"x{i} = {i}\n" for i in range(500)) + "z", "x = 1; " * 50_000])
def test_typing_tokenises_the_end_of_the_line_with_the_cursor_alone(prefix: str) -> None:
    encoded: list[str] = []

    def counting(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    suffix = "y = 1\n" * 500
    file = OpenFile(counting)
    file.update(prefix, suffix)
    encoded.clear()
    file.update(prefix + "z", suffix)
    assert len(encoded) == 1 and len(encoded[0]) <= LONGEST_BLOCK
    assert (prefix + "z").endswith(encoded[0])


def test_numbers_begin_anew_before_they_grow_large() -> None:
    file = OpenFile(encode)
    for index in range(40):
        file.update(f"{index}\n" + f"line {index}\n" * (RENUMBER // 16), "")
    assert len(file.distances) < 2 * RENUMBER


@given(prefix=TEXT, suffix=TEXT)
def test_what_follows_the_cursor_is_not_offered_nor_the_token_before_it(prefix: str, suffix: str) -> None:
    file = OpenFile(encode)
    file.update(prefix, suffix)
    head = sum(map(len, blocks(suffix)[:HEAD_BLOCKS]))
    assert len(file.table) == max(0, len(prefix) - 1) + len(suffix) - head
    marked = OpenFile(encode)
    marked.update(prefix, "§" * 3 + "\n" + suffix)
    matches = marked.table.search([*encode(prefix[-ORDER:]), ord("§")])
    assert matches is None or ord("§") not in matches.following


@given(text=TEXT)
def test_blocks_are_the_text(text: str) -> None:
    assert "".join(blocks(text)) == text
    assert not any(block.isspace() for block in blocks(text)[1:-1] if block.endswith("\n"))


@pytest.mark.parametrize("split", ["word", "line"])
def test_blocks_are_tokenised_as_the_whole(split: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    json = (tokenizer_dir / FILE).read_text(encoding="utf-8")
    if split == "line":
        from codelm.tokenizer import PATTERNS

        word, line = (encoded(PATTERNS[name]) for name in ("word", "line"))
        assert word in json
        json = json.replace(word, line)
    (tmp_path / FILE).write_text(json, encoding="utf-8")
    vocabulary = Tokenizer(tmp_path / FILE)
    assert vocabulary.split == split
    for text in (inspect.getsource(textwrap), "a\n\n\n  b(\n\n    \n)\n\tc \n \n", "if x:\n\n\ty\r\n\r\n  z"):
        assert [token for block in blocks(text) for token in vocabulary.encode(block)] == vocabulary.encode(text)


def encoded(pattern: str) -> str:
    """As it stands in a JSON file."""
    import json

    return json.dumps(pattern, ensure_ascii=False)[1:-1]
