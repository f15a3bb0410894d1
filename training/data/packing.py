"""How documents fill windows: end to end, or each where it fits best."""

import abc
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codelm.corpus.tokens import TokenShard
from training.data.best_fit import best_fit_decreasing
from training.data.seeding import EPOCH, generator


class Piece(NamedTuple):
    """A part of a document in a window."""

    ids: npt.NDArray[np.int64]
    prose: npt.NDArray[np.bool_]
    """which ids stand in comments and docstrings"""
    document: int
    """its number in the shard"""
    goes_on: bool = False
    """whether it reads on from the piece before it"""
    may_be_fim: bool = True


class Cut(NamedTuple):
    """Where a packing loses something, over one epoch."""

    documents: int
    """that no window holds whole"""
    padding: float
    """the share of ids that are padding, before fill-in-the-middle"""


class Packing(Protocol):
    """The windows of some documents, epoch after epoch. In each, every token of theirs stands once."""

    def pieces(self, n: int) -> Iterator[Piece]:
        """The n-th window's, at most `length` + 1 ids in all."""

    def cut(self) -> Cut:
        """What the first epoch loses."""


Epoch = TypeVar("Epoch")


class Epochs(abc.ABC, Generic[Epoch]):
    """Documents of a shard, laid out anew in each epoch; the last two layouts are kept."""

    def __init__(
        self, shard: TokenShard, documents: npt.NDArray[np.int64], end: int, length: int, seed: int, number: int
    ) -> None:
        """documents: their numbers in the shard. end: <|endoftext|>. number: tells this packing from others of the seed."""
        self.shard = shard
        self.documents = documents
        self.end = end
        self.length = length
        self.seed = seed
        self.number = number
        self._epochs: dict[int, Epoch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_epochs": {}}

    def epoch(self, number: int) -> Epoch:
        """The layout of an epoch."""
        if number not in self._epochs:
            if len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[number] = self.lay_out(number, generator(self.seed, EPOCH, number, self.number))
        return self._epochs[number]

    @abc.abstractmethod
    def lay_out(self, number: int, random: np.random.Generator) -> Epoch:
        """The layout of an epoch, drawn."""

    def sizes(self) -> npt.NDArray[np.int64]:
        """The tokens of each document with its <|endoftext|>, (documents,)."""
        return self.shard.offsets[self.documents + 1] - self.shard.offsets[self.documents] + 1

    def piece(self, document: int, start: int, size: int) -> Piece:
        """At most `size` tokens of a document from its `start`-th on; <|endoftext|> is the last one of a document."""
        first, end = (int(offset) for offset in self.shard.offsets[document : document + 2])
        last = min(end, first + start + size)
        ids, prose = self.shard.ids[first + start : last].astype(np.int64), self.shard.prose_of(first + start, last)
        if len(ids) < size:
            ids, prose = np.append(ids, self.end), np.append(prose, False)
        return Piece(ids, prose, document)


class StreamEpoch(NamedTuple):
    """documents: in their order. ends: where in the epoch each ends with its <|endoftext|>. windows: in their order."""

    documents: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]


class StreamPacking(Epochs[StreamEpoch]):
    """Documents end to end in an order of the epoch's own, cut into windows, which are visited in another order, so that
    neighbours of one document do not meet in one batch.

    The last id of a window is the first one of the next: each is learned once. The last window of an epoch goes on with the
    documents of the next one.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = int(self.sizes().sum())

    def first_window(self, epoch: int) -> int:
        """The first window that begins in an epoch, counted from the beginning of the training."""
        return -(-epoch * self.tokens // self.length)

    def lay_out(self, number: int, random: np.random.Generator) -> StreamEpoch:
        order = random.permutation(len(self.documents))
        windows = self.first_window(number + 1) - self.first_window(number)
        return StreamEpoch(self.documents[order], np.cumsum(self.sizes()[order]), random.permutation(windows))

    def pieces(self, n: int) -> Iterator[Piece]:
        number = n * self.length // self.tokens
        first = self.first_window(number)
        window = first + int(self.epoch(number).windows[n - first])
        position, missing = window * self.length - number * self.tokens, self.length + 1
        while missing:
            if position == self.tokens:
                number, position = number + 1, 0
            documents, ends, _ = self.epoch(number)
            place = int(np.searchsorted(ends, position, side="right"))
            start = position - int(ends[place - 1] if place else 0)
            piece = self.piece(int(documents[place]), start, min(missing, int(ends[place]) - position))
            yield piece
            missing -= len(piece.ids)
            position += len(piece.ids)

    def cut(self) -> Cut:
        ends = self.epoch(0).ends
        begins = np.concatenate([[0], ends[:-1]])
        return Cut(int(np.count_nonzero(begins // self.length != (ends - 1) // self.length)), 0.0)


class BestFitEpoch(NamedTuple):
    """The pieces of documents by windows: of each the document, where in it it begins, and its size.

    windows: (windows + 1,), where the pieces of each begin. order: of the windows.
    """

    documents: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]


class BestFitPacking(Epochs[BestFitEpoch]):
    """Documents as whole as can be: one is cut only if it is longer than a window, and nothing of it is thrown away.

    Pieces are packed best fit decreasing (Ding et al. 2024, arXiv 2404.10830). Which documents of one size share a window,
    where the short rest of a long one is cut off, the order in a window and of the windows change from epoch to epoch; the
    number of windows, which depends on the sizes only, does not.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.capacity = self.length + 1
        self.windows = len(self.epoch(0).order)

    def lay_out(self, number: int, random: np.random.Generator) -> BestFitEpoch:
        order = random.permutation(len(self.documents))
        whole = self.sizes()[order]
        parts = -(-whole // self.capacity)
        of = np.repeat(np.arange(len(order)), parts)
        part = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
        # one part of a long document is shorter than the others, and any of them may be that one
        short, rest = random.integers(0, parts)[of], (whole - (parts - 1) * self.capacity)[of]
        sizes = np.where(part == short, rest, self.capacity)
        starts = part * self.capacity - np.where(part > short, self.capacity - rest, 0)
        bin_of, windows = best_fit_decreasing(sizes, self.capacity)
        by_window = np.lexsort((random.random(len(of)), bin_of))
        return BestFitEpoch(
            self.documents[order][of][by_window],
            starts[by_window],
            sizes[by_window],
            np.searchsorted(bin_of[by_window], np.arange(windows + 1)),
            random.permutation(windows),
        )

    def pieces(self, n: int) -> Iterator[Piece]:
        number, turn = divmod(n, self.windows)
        epoch = self.epoch(number)
        window = int(epoch.order[turn])
        for at in range(int(epoch.windows[window]), int(epoch.windows[window + 1])):
            yield self.piece(int(epoch.documents[at]), int(epoch.starts[at]), int(epoch.sizes[at]))

    def cut(self) -> Cut:
        sizes = self.sizes()
        padding = 1 - int(sizes.sum()) / (self.windows * self.capacity)
        return Cut(int(np.count_nonzero(sizes > self.capacity)), padding)
