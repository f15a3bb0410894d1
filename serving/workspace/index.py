"""An inverted index of chunks by the terms of their identifiers, scored by BM25 (Robertson & Zaragoza 2009, "The
Probabilistic Relevance Framework", section 3), changed file by file.
"""

import math
import posixpath
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from serving.workspace.chunks import Chunk
from serving.workspace.identifiers import Words, words

K1, B = 1.2, 0.75
COUNT_BITS = 4
MAX_COUNT = (1 << COUNT_BITS) - 1
"""A posting is the number of a chunk and, in the low bits, how often the term is in it."""
COMMON = 0.05
"""Terms in more chunks than this share are not looked up: they are keywords, and would cost the most."""
HEAVIEST = 64
"""Terms of a query that are looked up."""
REMEMBERED = 256
"""Terms whose parts of the scores are kept: from one line to the next a query is nearly the same."""
SMALL = 256
"""Chunks below which no term is common, and of dead ones that are not worth clearing up."""

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


class Index:
    """Chunks have numbers, in the order in which they came; those of a removed file are dead until the index is cleared up.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self.chunks: list[Chunk | None] = []
        self.files: dict[str, range] = {}
        """path → its chunks"""
        self.folders: dict[str, set[str]] = {}
        """folder → the paths of the files in it"""
        self._postings: dict[str, array[int]] = {}
        self._lengths = array("f")
        """of the chunks, in identifiers"""
        self._dead = 0
        self._sum = 0.0
        """of the lengths of living chunks"""
        self._parts: dict[str, tuple[Numbers, Scores]] = {}
        """of terms, as long as nothing changes"""

    def __len__(self) -> int:
        """Chunks."""
        return len(self.chunks) - self._dead

    def put(self, path: str, chunks: Sequence[Chunk]) -> None:
        """Takes a file in, in the place of what was known of it."""
        self.remove(path)
        self._parts.clear()
        first = len(self.chunks)
        for number, chunk in enumerate(chunks, start=first):
            found = words(chunk.text)
            for term, count in found.counts.items():
                posting = self._postings.get(term)
                if posting is None:
                    posting = self._postings[term] = array("I")
                posting.append(number << COUNT_BITS | min(count, MAX_COUNT))
            self.chunks.append(chunk)
            self._lengths.append(found.length)
            self._sum += found.length
        self.files[path] = range(first, first + len(chunks))
        self.folders.setdefault(posixpath.dirname(path), set()).add(path)

    def remove(self, path: str) -> None:
        """Forgets a file, if it is known."""
        if path not in self.files:
            return
        self._parts.clear()
        folder = posixpath.dirname(path)
        self.folders[folder].discard(path)
        if not self.folders[folder]:
            del self.folders[folder]
        for number in self.files.pop(path):
            self.chunks[number] = None
            self._sum -= self._lengths[number]
            self._lengths[number] = math.inf  # so that no term adds to its score
            self._dead += 1
        if self._dead > max(SMALL, len(self)):
            self._clear_up()

    def known(self, numbers: Iterable[int]) -> Iterator[tuple[int, Chunk]]:
        """The living ones of these chunks."""
        for number in numbers:
            chunk = self.chunks[number]
            if chunk is not None:
                yield number, chunk

    def weights(self, query: Mapping[str, float]) -> dict[str, float]:
        """Term → its weight in a query times its inverse document frequency, of the HEAVIEST that are not everywhere."""
        total = len(self)
        weights = {}
        for term, weight in query.items():
            count = len(self._postings.get(term, ()))
            if count <= max(SMALL, COMMON * total):
                weights[term] = weight * math.log1p((max(total, count) - count + 0.5) / (count + 0.5))
        return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:HEAVIEST])

    def scores(self, weights: Mapping[str, float]) -> Scores:
        """The BM25 score of each chunk, (chunks,), 0 for dead ones. weights: as `weights` gives them."""
        scores = np.zeros(len(self.chunks), dtype=np.float32)
        for term, weight in weights.items():
            numbers, part = self._part(term)
            scores[numbers] += weight * part
        return scores

    def _part(self, term: str) -> tuple[Numbers, Scores]:
        """The chunks with a term, and what it adds to the score of each, for a weight of 1."""
        if term not in self._parts:
            if len(self._parts) >= REMEMBERED:
                self._parts.clear()
            packed = np.array(self._postings.get(term, ()), dtype=np.uint32)
            numbers = (packed >> COUNT_BITS).astype(np.int64)
            counts = (packed & MAX_COUNT).astype(np.float32)
            lengths = np.frombuffer(self._lengths, dtype=np.float32)[numbers] if len(numbers) else counts
            norms = K1 * (1 - B + B * lengths / self._mean)
            self._parts[term] = numbers, (counts * (K1 + 1) / (counts + norms)).astype(np.float32)
        return self._parts[term]

    @property
    def _mean(self) -> float:
        """Length of a chunk."""
        return max(1.0, self._sum / len(self)) if len(self) else 1.0

    def score_of(self, found: Words, weights: Mapping[str, float]) -> float:
        """The score of a chunk that is not in the index."""
        mean = self._mean if len(self) else max(1.0, found.length)
        norm = K1 * (1 - B + B * found.length / mean)
        return sum(
            weight * count * (K1 + 1) / (count + norm)
            for term, weight in weights.items()
            if (count := found.counts.get(term, 0))
        )

    def _clear_up(self) -> None:
        """Gives the living chunks new numbers, in their order, and forgets the dead."""
        alive = np.array([chunk is not None for chunk in self.chunks], dtype=bool)
        numbers = np.cumsum(alive) - 1
        for term, posting in list(self._postings.items()):
            packed = np.array(posting, dtype=np.uint32)
            kept = packed[alive[packed >> COUNT_BITS]]
            if len(kept):
                new = numbers[kept >> COUNT_BITS].astype(np.uint32) << COUNT_BITS | (kept & MAX_COUNT)
                self._postings[term] = array("I", new.astype(np.uint32).tobytes())
            else:
                del self._postings[term]
        self.files = {
            path: range(int(numbers[chunks.start]), int(numbers[chunks.start]) + len(chunks)) if chunks else range(0)
            for path, chunks in self.files.items()
        }
        self._lengths = array("f", [length for length, lives in zip(self._lengths, alive, strict=True) if lives])
        self.chunks = [chunk for chunk in self.chunks if chunk is not None]
        self._dead = 0
