"""The order of the training data: sample i is a pure function of (seed, i).

Each epoch lays the documents end to end in an order of its own, each closed by <|endoftext|>, cuts that stream into
windows, and visits the windows in an order of its own, so that neighbours of one file do not meet in one batch. A window
is cut into pieces at the ends of documents; pieces drawn for fill-in-the-middle are
rearranged within their own length ("context level", Bavarian et al. 2022, §4.4), so no example is ever split. Every random
choice comes from a counter-based generator keyed by (seed, purpose, counter), so a run that resumes at sample i, or has
another number of data workers or ranks, sees the very same tokens.
"""

import functools
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from codelm import fim
from codelm.config.data import FimConfig
from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer
from training.loss import IGNORE
from training.spans import draw_span

EPOCH, SAMPLE = 0, 1
"""Purposes of random streams."""
SHORTEST_FIM_PIECE = 24
"""Tokens; in a shorter piece the special tokens would be most of the example."""


def generator(seed: int, purpose: int, counter: int) -> np.random.Generator:
    """The random stream of one purpose and counter: Philox is counter-based, so no state is carried along."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[counter, 0, 0, 0]))


class Sample(NamedTuple):
    """What the model reads and learns; a batch of them has one more dimension in front. All (length,) int64."""

    ids: torch.Tensor
    labels: torch.Tensor
    """The next ids, IGNORE where none is learned."""
    kinds: torch.Tensor
    """What each label belongs to: an index in `loss.KINDS`."""
    positions: torch.Tensor
    """Counted from 0 at the beginning of each document; they tell the documents apart."""


class PackedSamples(Dataset[Sample]):
    """Sample i of a token shard."""

    def __init__(self, shard: TokenShard, tokenizer: Tokenizer, config: FimConfig, length: int, seed: int) -> None:
        self.shard = shard
        self.tokenizer = tokenizer
        self.config = config
        self.length = length
        self.seed = seed
        self.epoch_tokens = len(shard.ids) + len(shard)
        self.windows = -(-self.epoch_tokens // length)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one data set lives as long as its process
    def epoch(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of an epoch: the documents' order, where in the stream each ends with its <|endoftext|>, the windows' order."""
        random = generator(self.seed, EPOCH, number)
        documents = random.permutation(len(self.shard))
        return documents, np.cumsum(np.diff(self.shard.offsets)[documents] + 1), random.permutation(self.windows)

    def pieces(self, i: int) -> Iterator[npt.NDArray[np.int64]]:
        """The parts of documents in sample i, <|endoftext|> included where a document ends; `length` + 1 ids in all."""
        number, turn = divmod(i, self.windows)
        documents, ends, windows = self.epoch(number)
        position, missing = int(windows[turn]) * self.length, self.length + 1
        while missing:
            position %= self.epoch_tokens  # the last window goes on at the beginning
            place = int(np.searchsorted(ends, position, side="right"))
            first, last = self.shard.offsets[documents[place] : documents[place] + 2]
            skipped = position - (ends[place] - (last - first + 1))
            ids = np.append(self.shard.ids[first + skipped : last], self.tokenizer.fim.endoftext).astype(np.int64)[:missing]
            yield ids
            missing -= len(ids)
            position += len(ids)

    def __getitem__(self, i: int) -> Sample:
        random = generator(self.seed, SAMPLE, i)
        ids = np.full(self.length + 1, self.tokenizer.fim.fim_pad, dtype=np.int64)
        positions = np.zeros(self.length + 1, dtype=np.int64)
        start = 0
        for piece in self.pieces(i):
            drawn = len(piece) >= SHORTEST_FIM_PIECE and random.random() < self.config.rate
            part = fim_piece(piece, self.tokenizer, self.config, random) if drawn else piece
            ids[start : start + len(part)] = part
            positions[start : start + len(part)] = np.arange(len(part))
            start += len(part)
        labels = ids[1:].copy()
        labels[labels == self.tokenizer.fim.fim_pad] = IGNORE
        return Sample(*map(torch.from_numpy, (ids[:-1].copy(), labels, np.zeros_like(labels), positions[:-1].copy())))


def fim_piece(
    piece: npt.NDArray[np.int64], tokenizer: Tokenizer, config: FimConfig, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A piece of a document as a fill-in-the-middle example of at most its own length.

    The text is cut at characters and its three parts are tokenised apart, as a served prompt is. What the special tokens
    and the cuts add is taken from the far ends of the context, the ends that a served prompt's windows cut too. A piece
    whose text is not whole UTF-8 (its window began inside a character) stays as it is.
    """
    try:
        text = tokenizer.decode(piece.tolist()).decode()
    except UnicodeDecodeError:
        return piece
    span = draw_span(text, config, random)
    order = fim.Order.SPM if random.random() < config.spm_rate else fim.Order.PSM
    if span is None:
        return piece
    begin, end = span
    prefix, middle, suffix = (tokenizer.encode(part) for part in (text[:begin], text[begin:end], text[end:]))
    excess = fim.OVERHEAD + len(prefix) + len(middle) + len(suffix) - len(piece)
    if excess > 0:
        from_suffix = min(len(suffix), excess // 2)
        from_prefix = min(len(prefix), excess - from_suffix)
        from_suffix = min(len(suffix), excess - from_prefix)
        if from_prefix + from_suffix < excess:
            return piece
        prefix, suffix = prefix[from_prefix:], suffix[: len(suffix) - from_suffix]
    return np.asarray(fim.example(tokenizer.fim, order, prefix, middle, suffix), dtype=np.int64)


class StepBatches:
    """The micro-batches of one rank from a given step on, in order.

    Step s of `ranks` ranks holds samples [s · n, (s + 1) · n) with n = ranks × accumulation × micro_batch_size; micro-batch m
    of rank r holds the m-th run of them that belongs to r, so more accumulation on fewer ranks gives the same steps.
    """

    def __init__(self, first_step: int, last_step: int, micro_batch: int, accumulation: int, rank: int, ranks: int) -> None:
        self.steps = range(first_step, last_step)
        self.micro_batch = micro_batch
        self.accumulation = accumulation
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        per_step = self.ranks * self.accumulation * self.micro_batch
        for step in self.steps:
            for part in range(self.accumulation):
                first = step * per_step + (part * self.ranks + self.rank) * self.micro_batch
                yield list(range(first, first + self.micro_batch))


def loader(samples: PackedSamples, batches: StepBatches, workers: int) -> DataLoader[Any]:
    """Micro-batches: a Sample of tensors of shape (micro_batch, length)."""
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_ctrl_c_to_the_parent,
    )


def leave_ctrl_c_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer still needs its workers to end the step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
