"""Where a run's seconds and memory go, and how near its computation comes to what the device can do."""

import contextlib
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

OVERHEAD = ("data", "log", "checkpoint")
"""What a loop spends besides forward, backward, step and evaluation. On a GPU, which computes on meanwhile, an upper bound."""


class Clock:
    """Seconds by what they were spent on, since the last lap and in all."""

    def __init__(self, before: float = 0.0) -> None:
        """before: seconds that earlier processes spent on this run."""
        self.before = before
        self.started = self.lap_started = time.monotonic()
        self.total: defaultdict[str, float] = defaultdict(float)
        self.lap: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Counts the time of its body as spent on "data", "log", "checkpoint" or "evaluation"; the rest is training."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.lap[what] += seconds
            self.total[what] += seconds

    @property
    def seconds(self) -> float:
        """Of the run so far, earlier processes included."""
        return self.before + time.monotonic() - self.started

    def next_lap(self) -> tuple[float, float]:
        """Seconds since the last call without those of evaluations, and the share of them that was overhead."""
        now = time.monotonic()
        seconds = max(now - self.lap_started - self.lap["evaluation"], 1e-9)
        overhead = sum(self.lap[what] for what in OVERHEAD) / seconds
        self.lap_started, self.lap = now, defaultdict(float)
        return seconds, overhead

    def shares(self) -> dict[str, float]:
        """What this process spent on each, as shares of all its seconds."""
        whole = max(time.monotonic() - self.started, 1e-9)
        return {what: round(self.total[what] / whole, 4) for what in (*OVERHEAD, "evaluation")}


def memory(device: torch.device) -> int:
    """Bytes in use: the most that tensors ever held on a GPU, what the process holds now on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def peak_memory(device: torch.device) -> int:
    """Bytes at the most since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss begins with what the parent process held
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
