"""Samples by batches, from worker processes or not."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from training.data.samples import PackedSamples


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
        pin_memory=torch.cuda.is_available(),  # from other memory, a copy waits for all that the GPU has yet to compute
        worker_init_fn=leave_signals_to_the_parent,
    )


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the trainer still needs its workers to end the step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
