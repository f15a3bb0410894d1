"""Text → lexemes: words and marks, without the space between them. What deduplication, decontamination and attribution count.

A lexeme is a run of letters, digits, underscores and bytes above ASCII, or one other mark: `\\w+|[^\\w\\s]`, so that
indentation and line ends do not tell two texts apart. Each is a 64-bit polynomial hash of its bytes, cut out of one running
sum, so that a text costs a few passes of numpy and no loop. Equal on every machine.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

SPACE, WORD, MARK = 0, 1, 2
BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64."""
MIX = np.uint64(0xD6E8FEB86659FD93)
HALF = np.uint64(32)
CHUNK = 1 << 20
"""Bytes hashed at once, which bounds the memory: 40 MB."""


class Lexemes(NamedTuple):
    """The lexemes of a text, all arrays of one length."""

    hashes: Hashes
    starts: npt.NDArray[np.int64]
    """byte where each begins"""
    ends: npt.NDArray[np.int64]
    """byte after each"""


@cache
def tables() -> tuple[npt.NDArray[np.uint8], Hashes, Hashes, Hashes]:
    """Byte → class, byte → random value, powers of the base and of its inverse."""
    classes = np.full(256, MARK, dtype=np.uint8)
    classes[128:] = WORD
    for byte in range(128):
        if chr(byte).isalnum() or chr(byte) == "_":
            classes[byte] = WORD
        elif chr(byte).isspace():
            classes[byte] = SPACE
    values = np.random.Generator(np.random.Philox(key=1)).integers(1, 1 << 63, 256, dtype=np.uint64)
    return classes, values, powers(BASE), powers(pow(BASE, -1, 1 << 64))


def powers(base: int) -> Hashes:
    """base^0 … base^(CHUNK - 1) modulo 2^64."""
    found = np.ones(CHUNK, dtype=np.uint64)
    known = 1
    while known < CHUNK:
        more = min(known, CHUNK - known)
        found[known : known + more] = found[:more] * np.uint64(pow(base, known, 1 << 64))
        known += more
    return found


def lexemes(data: bytes) -> Lexemes:
    """The lexemes of a text in UTF-8."""
    classes, values, up, down = tables()
    raw = np.frombuffer(data, dtype=np.uint8)
    kind = classes[raw]
    word = kind == WORD
    boundary = np.diff(word, prepend=False, append=False)  # where a word begins or ends
    mark = kind == MARK
    starts = np.flatnonzero(mark | (word & boundary[:-1]))
    ends = np.flatnonzero(mark | (word & boundary[1:])) + 1
    hashes = np.empty(len(starts), dtype=np.uint64)
    first = 0
    while first < len(starts):
        base = starts[first]
        last = max(int(np.searchsorted(ends, base + CHUNK, side="right")), first + 1)
        piece = raw[base : ends[last - 1]][:CHUNK]  # a lexeme longer than a chunk is known by its first bytes
        sums = np.zeros(len(piece) + 1, dtype=np.uint64)
        np.cumsum(values[piece] * up[: len(piece)], out=sums[1:])
        begin, end = starts[first:last] - base, np.minimum(ends[first:last] - base, len(piece))
        hashes[first:last] = (sums[end] - sums[begin]) * down[begin]
        first = last
    return Lexemes(mixed(hashes), starts, ends)


def mixed(hashes: Hashes) -> Hashes:
    """Spreads every bit over all others (Mueller's finaliser), without which the low bits repeat."""
    hashes = (hashes ^ (hashes >> HALF)) * MIX
    hashes = (hashes ^ (hashes >> HALF)) * MIX
    return hashes ^ (hashes >> HALF)


def grams(hashes: Hashes, length: int) -> Hashes:
    """One hash for each run of `length` lexemes, in order; empty if there are fewer."""
    count = len(hashes) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        total = total * np.uint64(BASE) + hashes[offset : offset + count]
    return mixed(total)
