"""Files that are almost another one: MinHash signatures, bands of them that agree, then the true similarity.

The similarity of two files is the Jaccard index of their sets of shingles, runs of a few lexemes. A signature estimates it
(Broder, On the resemblance and containment of documents, 1997); files that agree in one band of it are candidates
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3); candidates are compared by their true sets before one is
dropped.
"""

import importlib.metadata
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rensa  # type: ignore[import-untyped]

from codelm.config.corpus import Dedup
from codelm.lexemes import BASE, Hashes, grams, mixed

ALGORITHM = f"rensa {importlib.metadata.version('rensa')}, R-MinHash {rensa.RMinHash.ALGORITHM_VERSION}"
"""What made a signature; those of another algorithm do not compare."""
SEED = 1
DEVIATIONS = 5
"""A pair whose signatures agree this many standard deviations less than the threshold would is not compared: at most three in
ten million similar pairs are lost by it, and most candidates never have to be read."""
CACHE_BYTES = 256 << 20
"""Of shingles read again to compare them."""

Signatures = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]


def runs(hashes: Hashes, config: Dedup) -> Hashes:
    """The shingles of a text in order, with repeats. A text shorter than a shingle has one, all of it; an empty one has none.

    hashes: of its lexemes.
    """
    return grams(hashes, min(config.shingle, len(hashes))) if len(hashes) else hashes


def shingles(hashes: Hashes, config: Dedup) -> Hashes:
    """The set of shingles of a text, sorted."""
    return np.unique(runs(hashes, config))


def signature(shingles: Hashes, config: Dedup) -> bytes:
    """The MinHash signature of shingles, in any order and with any repeats: bands * rows little-endian uint32."""
    count = config.bands * config.rows
    ends = np.array([0, len(shingles)], dtype=np.uint64)
    digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes(shingles, ends, count, SEED)
    return np.array(digests.to_rows()[0], dtype="<u4").tobytes()


def jaccard(one: Hashes, other: Hashes) -> float:
    """Of two sorted sets: shared / all. Two empty sets are equal."""
    small, large = sorted((one, other), key=len)
    if not len(small):
        return float(len(large) == 0)
    places = np.minimum(np.searchsorted(large, small), len(large) - 1)
    shared = int(np.count_nonzero(large[places] == small))
    return shared / (len(small) + len(large) - shared)


def chance(similarity: float, config: Dedup) -> float:
    """The probability that two files of a Jaccard similarity become candidates."""
    return float(1 - (1 - similarity**config.rows) ** config.bands)


def s_curve(config: Dedup, steps: int = 20) -> list[tuple[float, float]]:
    """(similarity, probability to become a candidate) from 0 to 1."""
    return [(step / steps, chance(step / steps, config)) for step in range(steps + 1)]


class Buckets(NamedTuple):
    """Which documents agree in a whole band with another one, and where."""

    documents: Indices
    """sorted, each once"""
    starts: Indices
    """of a document's buckets in `numbers`, and the end"""
    numbers: Indices
    """of buckets"""


def buckets(signatures: Signatures, config: Dedup) -> Buckets:
    """The buckets of two or more. signatures: (documents, bands * rows). A few numbers for each document and band at most."""
    members, numbers, known = [], [], 0
    for band in range(config.bands):
        block = np.ascontiguousarray(signatures[:, band * config.rows : (band + 1) * config.rows])
        keys = np.zeros(len(block), dtype=np.uint64)
        for row in range(config.rows):
            keys = keys * np.uint64(BASE) + block[:, row]
        keys = mixed(keys)
        order = np.argsort(keys, kind="stable")
        first, last = np.ones((2, len(keys)), dtype=np.bool_)
        first[1:] = last[:-1] = keys[order][1:] != keys[order][:-1]
        shared = ~(first & last)
        number = np.cumsum(first) - 1
        members.append(order[shared])
        numbers.append(known + number[shared])
        known += len(keys)
    member, number = np.concatenate(members), np.concatenate(numbers)
    order = np.argsort(member, kind="stable")
    documents, starts = np.unique(member[order], return_index=True)
    return Buckets(documents, np.append(starts, len(order)), number[order])


def suspects(signatures: Signatures, config: Dedup) -> Indices:
    """The documents that share a bucket, sorted: no other's shingles are ever asked for."""
    return buckets(signatures, config).documents


def drop_near_duplicates(
    order: Sequence[int], signatures: Signatures, shingles_of: Callable[[int], Hashes], config: Dedup
) -> dict[int, tuple[int, float]]:
    """Document to drop → (the kept one that it is like, their Jaccard similarity).

    order: the documents in order of preference, best first. One is dropped if it is as similar as the threshold to a better
    one that is kept, not to one that is itself dropped. signatures: (documents, bands * rows), row i of document i.
    shingles_of: reads the set of shingles of a document; asked for candidates only, and again if they fell out of the cache.
    """
    found = buckets(signatures, config)
    place = {document: at for at, document in enumerate(found.documents.tolist())}
    permutations = config.bands * config.rows
    deviation = (config.threshold * (1 - config.threshold) / permutations) ** 0.5
    hopeless = (config.threshold - DEVIATIONS * deviation) * permutations
    read = Cache(shingles_of, CACHE_BYTES)
    kept: dict[int, list[int]] = defaultdict(list)
    dropped: dict[int, tuple[int, float]] = {}
    for document in order:
        if document not in place:
            continue
        at = place[document]
        mine = found.numbers[found.starts[at] : found.starts[at + 1]].tolist()
        candidates = np.array(sorted({other for bucket in mine for other in kept.get(bucket, ())}), dtype=np.int64)
        agreeing = np.count_nonzero(signatures[candidates] == signatures[document], axis=1)
        for candidate in candidates[np.argsort(-agreeing, kind="stable")][: np.count_nonzero(agreeing >= hopeless)].tolist():
            similarity = jaccard(read(document), read(candidate))
            if similarity >= config.threshold:
                dropped[document] = (candidate, similarity)
                break
        else:
            for bucket in mine:
                kept[bucket].append(document)
    return dropped


class Cache:
    """The last read sets of shingles, in a bounded number of bytes."""

    def __init__(self, read: Callable[[int], Hashes], limit: int) -> None:
        self.read = read
        self.limit = limit
        self.size = 0
        self.known: OrderedDict[int, Hashes] = OrderedDict()

    def __call__(self, document: int) -> Hashes:
        found = self.known.get(document)
        if found is not None:
            self.known.move_to_end(document)
            return found
        found = self.read(document)
        self.known[document] = found
        self.size += found.nbytes
        while self.size > self.limit and len(self.known) > 1:
            self.size -= self.known.popitem(last=False)[1].nbytes
        return found
