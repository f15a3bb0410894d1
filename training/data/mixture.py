"""What is read how often: sources of documents with a share each, and whose turn it is at sample i."""

import fnmatch
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codelm.config.data import Factor, MixtureConfig
from codelm.corpus.balance import weights
from codelm.corpus.decide import matches
from codelm.corpus.tokens import Documents, TokenShard
from codelm.errors import UserError


class Source(NamedTuple):
    """Documents that are read equally often."""

    documents: npt.NDArray[np.int64]
    """their numbers in the shard"""
    share: float
    """of all that is read"""


def sources(shard: TokenShard, config: MixtureConfig) -> list[Source]:
    """The documents by how often they are read; the shares of all sources add up to 1.

    Raises UserError if a factor fits no document, if nothing is left to read, or if the shard does not know its documents.
    """
    if config == MixtureConfig():
        return [Source(np.arange(len(shard)), 1.0)]
    documents = known(shard)
    tokens = np.diff(shard.offsets) + 1
    group = np.zeros(len(shard), dtype=np.int64)
    weight = tokens.astype(np.float64)
    if config.by != "size":
        names, group = documents.names(config.by), documents.codes(config.by)
        sizes = np.bincount(group, weights=documents.numbers("size"), minlength=len(names))
        alpha = shard.alpha if config.alpha is None else config.alpha
        shares = weights({str(number): int(size) for number, size in enumerate(sizes)}, alpha)
        of_group = np.array([shares.get(str(number), 0.0) for number in range(len(names))])
        # a language's share is shared out among its documents by their tokens
        weight *= (of_group / np.maximum(np.bincount(group, weights=tokens, minlength=len(names)), 1))[group]
    factor = np.ones(len(shard))
    for rule in config.factors:
        factor[fits(documents, rule)] *= rule.factor
    weight *= factor
    if not weight.sum():
        raise UserError("the factors of data.mixture leave no document to read", "give one that is greater than 0")
    kinds, of = np.unique(np.stack([group, factor], axis=1), axis=0, return_inverse=True)
    shares_of = np.bincount(of.ravel(), weights=weight, minlength=len(kinds)) / weight.sum()
    return [Source(np.flatnonzero(of.ravel() == number), float(share)) for number, share in enumerate(shares_of) if share > 0]


def known(shard: TokenShard) -> Documents:
    """The index of the documents. Raises UserError if there is none."""
    if shard.documents is None:
        raise UserError("the tokens have no index of their documents", "encode the corpus again with `codelm tokenizer train`")
    return shard.documents


def fits(documents: Documents, rule: Factor) -> npt.NDArray[np.bool_]:
    """Which documents a factor is for, (documents,). Raises UserError if there is none."""
    found = np.ones(len(documents), dtype=bool)
    for column, wanted in (("language", rule.language), ("license", rule.license)):
        if wanted is not None:
            fit = re.compile(fnmatch.translate(wanted.lower())).match
            known_names = np.array([fit(name.lower()) is not None for name in [*documents.names(column), ""]])
            found &= known_names[documents.codes(column)]
    if rule.files is not None:
        fit = matches(rule.files)
        found &= np.array([fit(place) is not None for place in documents.places()])
    if not found.any():
        given = ", ".join(f"{name}: {value}" for name, value in rule if value is not None and name != "factor")
        raise UserError(f"a factor of data.mixture fits no document ({given})", "see what there is in the corpus's report.html")
    return found


class Turns:
    """Whose turn it is: each source's samples spread evenly over all of them, so that at any moment it has had its share,
    to within a few samples.

    Source s would have its turns at the times (k + ½) / share_s, k = 0, 1, …; all turns are taken in the order of their times.
    """

    BLOCK = 1024

    def __init__(self, shares: list[float]) -> None:
        self.shares = shares
        self._blocks: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}

    def __getitem__(self, i: int) -> tuple[int, int]:
        """The source of sample i, and how many samples that source had before."""
        if len(self.shares) == 1:
            return 0, i
        number, place = divmod(i, self.BLOCK)
        if number not in self._blocks:
            if len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = self.block(number * self.BLOCK)
        source, turn = self._blocks[number]
        return int(source[place]), int(turn[place])

    def block(self, first: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sources and turns of the samples from `first` on, (BLOCK,) each."""
        # by the time t, t turns are over, give or take half a turn of each source
        begin, end = float(max(0, first - len(self.shares))), float(first + self.BLOCK + len(self.shares))
        source: list[npt.NDArray[np.int64]] = []
        turn: list[npt.NDArray[np.int64]] = []
        for number, share in enumerate(self.shares):
            turns = np.arange(turns_before(begin, share), turns_before(end, share))
            turn.append(turns)
            source.append(np.full(len(turns), number))
        sources, turns = np.concatenate(source), np.concatenate(turn)
        times = (turns + 0.5) / np.asarray(self.shares)[sources]
        over = sum(turns_before(begin, share) for share in self.shares)
        order = np.lexsort((sources, times))[first - over :][: self.BLOCK]
        return sources[order], turns[order]


def turns_before(time: float, share: float) -> int:
    """How many turns k = 0, 1, … of a source have (k + ½) / share < time, as floating-point numbers compare them."""
    turn = max(0, int(time * share) - 1)
    while (turn + 0.5) / share < time:
        turn += 1
    return turn
