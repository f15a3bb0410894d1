"""The rows of the file that is being edited, kept up with every keystroke by what has changed.

The file is a list of blocks: a line, with the blank lines after it, or a piece of a long one. Tokenising block by block gives
what tokenising the whole gives, for no token of the vocabularies that codelm trains reaches from a line break into a line that
is not blank. The rows of a block carry its number; when blocks change, their rows, and those of the few after whose context
reached into them, are taken out and made anew.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from serving.mixture.table import ORDER, Rows, Table, keys_of

Encode = Callable[[str], list[int]]
"""Text → token ids, without special tokens, whatever the text holds."""

BORDER = -1
HEAD_BLOCKS = 2
"""After the cursor: the rest of its line and the next one. Their text is there already and is not offered."""
STRIDE = 256
"""Blocks that are compared at once."""
RENUMBER = 1 << 16
"""Numbers given out before all rows are made anew with small ones."""

LONGEST_BLOCK = 2048
"""Characters: so that in a file that is one long line a keystroke does not tokenise all of it."""

_BLOCK = re.compile(rf"[^\n]{{0,{LONGEST_BLOCK}}}\n(?:[^\S\n]*\n)*|[^\n]{{1,{LONGEST_BLOCK}}}")


class Block(NamedTuple):
    """A piece of the file. offered: how many of its tokens may be offered as what follows, counted from its beginning."""

    ids: tuple[int, ...]
    offered: int


CURSOR = Block((BORDER,) * ORDER, 0)
"""Stands between what is before and after it, so that no context reaches across."""


class OpenFile:
    """One file with a cursor. Not thread-safe; the table that it holds may be read from other threads."""

    def __init__(self, encode: Encode) -> None:
        self._block = lru_cache(maxsize=1 << 14)(lambda text: whole(encode(text)))
        # while a line is typed, the text before it and that after the cursor stay
        self._before = lru_cache(maxsize=1)(self._blocks_before)
        self._after = lru_cache(maxsize=1)(self._blocks_after)
        self._reset()

    def _reset(self) -> None:
        self.table = Table.empty()
        self._blocks: list[Block] = []
        self._numbers: list[int] = []
        self._next = 0
        self.distances = np.zeros(0, dtype=np.int32)
        """Blocks between the cursor and each number, (numbers,)."""

    @property
    def nbytes(self) -> int:
        """About its memory: the lines with their ids take three times what the rows do."""
        return 4 * self.table.nbytes

    def update(self, prefix: str, suffix: str) -> list[int]:
        """Makes the rows those of a text with a cursor. Returns the ids of the prefix's end, ORDER of them and its last block.

        The last token before the cursor is not offered: it may be half of one.
        """
        cut = prefix.rfind("\n") + 1
        before = self._before(prefix[:cut])
        if cut < len(prefix):
            before = [*before, *self._blocks_before(prefix[cut:])]
        last = before[-1:]
        after = self._after(suffix)
        new = [*before[: len(before) - 1], *(Block(ids, len(ids) - 1) for ids, _ in last), CURSOR, *after]
        if self._next > RENUMBER:
            self._reset()
        self._replace(new)
        self.distances = np.zeros(self._next, dtype=np.int32)
        self.distances[self._numbers] = np.abs(np.arange(len(new)) - len(before))
        return before_cursor(before)

    def _blocks_before(self, text: str) -> list[Block]:
        return [self._block(one) for one in blocks(text)]

    def _blocks_after(self, text: str) -> list[Block]:
        found = self._blocks_before(text)
        return [*(Block(ids, 0) for ids, _ in found[:HEAD_BLOCKS]), *found[HEAD_BLOCKS:]]

    def _replace(self, new: list[Block]) -> None:
        old = self._blocks
        head = common(old, new)
        tail = common(old[head:][::-1], new[head:][::-1])
        if head == len(old) == len(new):
            return
        # what follows the change and has some of it as context
        reach = 0
        while tail and reach < ORDER:
            reach += len(new[len(new) - tail].ids)
            tail -= 1
        changed = new[head : len(new) - tail]
        gone = self._numbers[head : len(old) - tail]
        numbers = list(range(self._next, self._next + len(changed)))
        self._next += len(changed)
        self.table = self.table.changed(gone, rows(new, head, numbers))
        self._blocks = new
        self._numbers[head : len(old) - tail] = numbers


def rows(all_blocks: Sequence[Block], first: int, numbers: Sequence[int]) -> Rows:
    """The rows of as many blocks as there are numbers, from the first-th on."""
    context: list[int] = []
    index = first
    while index > 0 and len(context) < ORDER:
        index -= 1
        context = [*all_blocks[index].ids, *context]
    changed = all_blocks[first : first + len(numbers)]
    ids = np.array([*context, *(token for block in changed for token in block.ids)], dtype=np.int32)
    lengths = np.array([len(block.ids) for block in changed], dtype=np.intp)
    offered = np.array([block.offered for block in changed], dtype=np.intp)
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    kept = within < np.repeat(offered, lengths)
    near, far = keys_of(ids, len(context))
    tags = np.repeat(np.array(numbers, dtype=np.int32), lengths)
    return Rows(near[kept], far[kept], ids[len(context) :][kept], tags[kept])


def before_cursor(before: Sequence[Block]) -> list[int]:
    """The ids of the last blocks: the last one whole, and ORDER tokens before it."""
    ids: list[int] = list(before[-1].ids) if before else []
    wanted = len(ids) + ORDER
    for block in reversed(before[:-1]):
        if len(ids) >= wanted:
            break
        ids = [*block.ids, *ids]
    return ids


def whole(ids: Sequence[int]) -> Block:
    """A block all of which may be offered."""
    return Block(tuple(ids), len(ids))


def blocks(text: str) -> list[str]:
    """The lines of a text, each with the blank ones after it."""
    return _BLOCK.findall(text)


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences have in common from their beginning."""
    count, shorter = 0, min(len(one), len(other))
    while count < shorter and one[count : count + STRIDE] == other[count : count + STRIDE]:
        count += STRIDE
    count = min(count, shorter)
    while count < shorter and one[count] == other[count]:
        count += 1
    return count
