"""A sorted table of contexts and the token that follows each: finds the longest matches of a context in microseconds.

A row is one token of a document: its ORDER tokens of left context, packed into two 64-bit keys with the nearest token in the
highest bits, the token itself, and a tag that says whose it is. Rows are sorted by the key of the nearest tokens, so those
that share the last 1 … PER_KEY tokens of a context lie side by side and two binary searches find them; how much further they
match is the number of leading zeros of an exclusive or. A table never changes: adding and removing make another one, so a
thread may read while another updates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

BITS = 16
PER_KEY = 64 // BITS
ORDER = 2 * PER_KEY
"""Tokens of context that are told apart, about a line of code."""
MAX_VOCAB = (1 << BITS) - 1
"""Tokens are packed as id + 1: zero is what lies before the beginning of a text."""
LIMIT = 256
"""Rows that a search returns. More share a context only if it is short or very common."""
ROW_BYTES = 24
LARGE = 1 << 20
"""Bytes of a column."""
SCANNED = 8192
"""Rows that share PER_KEY tokens of which the best LIMIT are looked for."""

Ids = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]

_SHIFTS = np.array([BITS * (PER_KEY - n) for n in range(1, PER_KEY + 1)], dtype=np.uint64)
_LOW_BITS = (np.uint64(1) << _SHIFTS) - np.uint64(1)
_DIFFERENCES = np.array([1 << BITS * n for n in range(PER_KEY)], dtype=np.uint64)
"""A key that differs by less than the n-th shares all but its n last tokens."""


class Rows(NamedTuple):
    """Rows in any order, (rows,) each: nearest and further keys of the context, the token that follows, the tag."""

    near: Keys
    far: Keys
    following: Ids
    tags: Ids


class Matches(NamedTuple):
    """Rows whose context ends as the one searched for: the token that follows, the row's tag, and how many tokens match."""

    following: Ids
    tags: Ids
    lengths: npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows, sorted by `near`. near, far: the nearest PER_KEY tokens of context and those before; all are (rows,)."""

    near: Keys
    far: Keys
    following: Ids
    tags: Ids

    @classmethod
    def empty(cls) -> Self:
        """No rows."""
        keys, ids = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int32)
        return cls(keys, keys, ids, ids)

    def __len__(self) -> int:
        return len(self.near)

    @property
    def nbytes(self) -> int:
        """Memory of the rows."""
        return self.near.nbytes + self.far.nbytes + self.following.nbytes + self.tags.nbytes

    def changed(self, gone: Sequence[int], rows: Rows | None = None) -> Self:
        """The table without the rows of some tags and with some others. Makes one copy: a project's rows are many megabytes."""
        if not gone and rows is None:
            return self
        rows = rows or Rows(*(getattr(self, name)[:0] for name in Rows._fields))
        leaving = np.flatnonzero(np.isin(self.tags, gone)) if gone else np.zeros(0, dtype=np.intp)
        order = np.argsort(rows.near, kind="stable")
        # a new row goes after the rows that stay and are not greater, and after the new ones before it
        after = self.near.searchsorted(rows.near[order], "right")
        places = after - leaving.searchsorted(after) + np.arange(len(order))
        stays = np.ones(len(self) - len(leaving) + len(order), dtype=bool)
        stays[places] = False

        def merged(name: str) -> npt.NDArray[Any]:
            column = getattr(self, name)
            both = empty(len(stays), column.dtype)
            both[stays] = np.delete(column, leaving) if len(leaving) else column
            both[places] = getattr(rows, name)[order]
            return both

        return type(self)(*map(merged, Rows._fields))

    def search(self, context: Sequence[int]) -> Matches | None:
        """Rows that match the end of a context, at most LIMIT: all that share the fewest tokens for which they are that few.

        Where even PER_KEY tokens are shared by more, those with the longest match; where only fewer tokens are shared at all,
        and by more, a sample. None if no row has the last token before it.
        """
        near, far = key_of(context)
        low, high = np.uint64(near) & ~_LOW_BITS, np.uint64(near) | _LOW_BITS
        starts = self.near.searchsorted(low, "left").tolist()
        ends = self.near.searchsorted(high, "right").tolist()
        start = end = 0
        for first, last in zip(starts, ends, strict=True):
            if first == last:
                break
            start, end = first, last
            if end - start <= LIMIT:
                break
        if start == end:
            return None
        step = -(-(end - start) // SCANNED)
        rows = slice(start, end, step)
        difference = self.near[rows] ^ np.uint64(near)
        lengths = PER_KEY - _DIFFERENCES.searchsorted(difference, "right")
        if lengths.max() == PER_KEY:
            equal = difference == 0
            further = PER_KEY - _DIFFERENCES.searchsorted(self.far[rows] ^ np.uint64(far), "right")
            lengths = lengths + np.where(equal, further, 0)
        following, tags = self.following[rows], self.tags[rows]
        if len(lengths) > LIMIT:
            best = np.argsort(-lengths, kind="stable")
            if lengths[best[LIMIT]] == lengths[best[0]]:  # all alike: evenly over the whole, not those that came first
                best = np.linspace(0, len(lengths) - 1, LIMIT).astype(np.intp)
            best = best[:LIMIT]
            following, tags, lengths = following[best], tags[best], lengths[best]
        return Matches(following, tags, lengths)


def empty(length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled. A large one goes back to the system when it is given up; malloc would keep the holes."""
    size = length * np.dtype(dtype).itemsize
    return np.frombuffer(mmap(-1, size), dtype) if size >= LARGE else np.empty(length, dtype)


def key_of(context: Sequence[int]) -> tuple[int, int]:
    """The two keys of a context: its last PER_KEY tokens, and the PER_KEY before."""
    keys = [0, 0]
    for distance, token in enumerate(reversed(context[-ORDER:])):
        part, place = divmod(distance, PER_KEY)
        keys[part] |= token + 1 << BITS * (PER_KEY - 1 - place)
    return keys[0], keys[1]


def keys_of(ids: Ids, first: int = 0) -> tuple[Keys, Keys]:
    """The two keys of the contexts of ids[first:], (len(ids) − first,) each. −1 is a border: no token matches it."""
    padded = np.concatenate([np.zeros(ORDER, dtype=np.uint64), (ids + 1).astype(np.uint64)])
    near, far = (np.zeros(len(ids) - first, dtype=np.uint64) for _ in range(2))
    for distance in range(ORDER):
        part, place = divmod(distance, PER_KEY)
        end = ORDER - 1 - distance + len(ids)
        tokens = padded[end - len(near) : end]
        key = far if part else near
        key |= tokens << np.uint64(BITS * (PER_KEY - 1 - place))
    return near, far
