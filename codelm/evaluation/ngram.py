"""A token n-gram model with interpolated modified Kneser-Ney smoothing: what a language model must beat to earn its weights.

Chen and Goodman 1998 (TR-10-98, Harvard), "modified Kneser-Ney": the highest order is counted, the lower ones count in how many
different words a sequence follows, each of three discounts is estimated from the counts of counts, and what is taken off goes
to the next shorter context, in the end to all tokens alike.

The tables are a trie of sorted arrays. Level n holds its n-grams as `parent · vocabulary + token`, where `parent` is the number
of the (n−1)-gram that they begin with. So a key fits 64 bits whatever n is, a look-up is a binary search, and the tokens that
follow a context lie side by side.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ORDER = 5
UNSEEN = -1

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Level(NamedTuple):
    """The n-grams of one length, sorted."""

    keys: npt.NDArray[np.uint64]
    discounted: npt.NDArray[np.float32]
    """The count of each less its discount."""
    total: npt.NDArray[np.float32]
    """Of each context, by its number on the level before: the counts of what follows it; 0 if nothing does."""
    backoff: npt.NDArray[np.float32]
    """Of each context: the probability that is left to the next shorter one."""


class NgramModel:
    """Probabilities of the next token after the last ORDER − 1."""

    def __init__(self, stream: npt.NDArray[np.integer], vocabulary: int, order: int = ORDER) -> None:
        """stream: (tokens,) ids below `vocabulary`, all documents one after the other; `order` of them at least."""
        self.vocabulary = vocabulary
        self.levels = levels_of(stream, vocabulary, order)

    @property
    def bytes(self) -> int:
        """Memory of the tables."""
        return sum(array.nbytes for level in self.levels for array in level)

    def nats(self, ids: Ids) -> Floats:
        """−log p of each token but the first, given those before it in its row. ids: (rows, length) → (rows, length − 1)."""
        rows, length = ids.shape
        probability = np.full((rows, length - 1), 1 / self.vocabulary)
        grams = np.zeros((rows, length + 1), dtype=np.int64)  # the number of the gram of n − 1 tokens that begins at each place
        for n, level in enumerate(self.levels[:length], start=1):
            # place i holds the context ids[i : i + n − 1], whose next token is ids[i + n − 1]
            contexts = grams[:, : length - n + 1]
            grams = self.children(level, contexts, ids[:, n - 1 :])
            first = 1 if n == 1 else 0  # of the targets, which are ids[1:]
            context, gram, target = contexts[:, first:], grams[:, first:], slice(max(n - 2, 0), None)
            probability[:, target] = interpolated(level, context, gram, probability[:, target])
        return -np.log(probability)

    def distribution(self, context: list[int]) -> Floats:
        """The probability of each token after a context, (vocabulary,)."""
        probability = np.full(self.vocabulary, 1 / self.vocabulary)
        for n, level in enumerate(self.levels, start=1):
            if n - 1 > len(context):
                break
            number = self.number(context[len(context) - (n - 1) :])
            if number == UNSEEN or level.total[number] == 0:
                break  # what is longer is unseen as well
            first, last = np.searchsorted(
                level.keys, np.array([number, number + 1], dtype=np.uint64) * np.uint64(self.vocabulary)
            )
            probability *= level.backoff[number]
            followers = (level.keys[first:last] - np.uint64(number * self.vocabulary)).astype(np.int64)
            probability[followers] += level.discounted[first:last] / level.total[number]
        return probability

    def number(self, gram: list[int]) -> int:
        """The number of an n-gram on its level; 0 of the empty one, UNSEEN of one that the stream does not hold."""
        number = np.zeros(1, dtype=np.int64)
        for level, token in zip(self.levels, gram, strict=False):
            number = self.children(level, number, np.array([token]))
        return int(number[0])

    def children(self, level: Level, parents: Ids, tokens: npt.NDArray[np.integer]) -> Ids:
        """The numbers of the n-grams that the (n−1)-grams `parents` make with `tokens`, UNSEEN where there is none."""
        wanted = np.where(parents == UNSEEN, 0, parents).astype(np.uint64) * np.uint64(self.vocabulary) + tokens.astype(
            np.uint64
        )
        found = np.minimum(np.searchsorted(level.keys, wanted), len(level.keys) - 1)
        return np.where((parents != UNSEEN) & (level.keys[found] == wanted), found, UNSEEN)


def interpolated(level: Level, contexts: Ids, grams: Ids, shorter: Floats) -> Floats:
    """p(token | context) from that of the next shorter context; a context that nothing follows has the same."""
    seen = contexts != UNSEEN
    total = np.where(seen, level.total[contexts], 0)
    seen &= total > 0
    own = np.where(grams == UNSEEN, 0, level.discounted[grams])
    return np.where(seen, own / np.where(seen, total, 1) + level.backoff[contexts] * shorter, shorter)


def levels_of(stream: npt.NDArray[np.integer], vocabulary: int, order: int) -> list[Level]:
    """The tables of all orders."""
    tokens = stream.astype(np.uint64)
    numbers = np.zeros(len(tokens) + 1, dtype=np.int32)  # of the (n−1)-gram that begins at each place
    keys: list[npt.NDArray[np.uint64]] = []
    counts: list[npt.NDArray[np.int64]] = []
    for n in range(1, order + 1):
        ends = tokens[n - 1 :]
        shorter = numbers
        unique, places, numbers, times = numbered(shorter[: len(ends)].astype(np.uint64) * np.uint64(vocabulary) + ends)
        if n > 1:  # a shorter gram counts in how many different words it follows
            counts[-1] = np.bincount(shorter[places + 1], minlength=len(keys[-1]))
        keys.append(unique)
        counts.append(times)
    contexts = [1, *map(len, keys)]
    return [level_of(*level, vocabulary) for level in zip(keys, counts, contexts, strict=False)]


def numbered(
    keys: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The different keys, sorted; a place of each; the number of the key at each place; how often each occurs.

    What `np.unique` gives, with half of its memory: any place will do, so the sort need not be stable.
    """
    order = np.argsort(keys)
    keys = keys[order]  # under the same name, so that the unsorted ones can go
    new = np.append(True, keys[1:] != keys[:-1])
    starts = np.flatnonzero(new)
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[order] = np.cumsum(new, dtype=np.int32) - 1
    return keys[starts], order[starts], numbers, np.diff(np.append(starts, len(keys)))


def level_of(keys: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64], contexts: int, vocabulary: int) -> Level:
    """One level with its discounts taken off. counts: of each n-gram, as its order counts. contexts: how many there are."""
    discount = discounts(counts)[np.minimum(counts, 3)]
    discounted = counts - discount
    parents = (keys // np.uint64(vocabulary)).astype(np.int64)
    total = np.bincount(parents, weights=counts, minlength=contexts)
    taken = np.bincount(parents, weights=discount, minlength=contexts)
    backoff = np.divide(taken, total, out=np.ones_like(total), where=total > 0)
    return Level(keys, discounted.astype(np.float32), total.astype(np.float32), backoff.astype(np.float32))


def discounts(counts: npt.NDArray[np.int64]) -> Floats:
    """What to take off a count of 0, 1, 2, and 3 or more: k − (k + 1) · Y · n(k+1)/n(k), Y = n1/(n1 + 2 · n2).

    n(k): how many n-grams have the count k. Where a stream is too short to tell, three quarters of a count.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == k)) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0, 0.75, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    found = [k - (k + 1) * y * more / these for k, these, more in ((1, n1, n2), (2, n2, n3), (3, n3, n4))]
    return np.array([0.0, *(min(max(one, 0.05), k) for k, one in enumerate(found, start=1))])
