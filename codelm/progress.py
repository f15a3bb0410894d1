"""How long work reports where it is, without knowing who shows it."""

from typing import Protocol


class Progress(Protocol):
    """Called often by long work; cheap, never raises.

    done, total: the same unit (bytes, steps, files); total is None while unknown.
    facts: short texts worth showing live, such as loss="3.21".
    """

    def __call__(self, done: float, total: float | None = None, **facts: str) -> None: ...


def silent(done: float, total: float | None = None, **facts: str) -> None:
    """The progress of a caller that shows none."""


def part(progress: Progress, start: float, end: float, note: str) -> Progress:
    """The progress of one part of a longer work: its way from 0 to its total is the whole's from `start` to `end` (0 to 1)."""

    def report(done: float, total: float | None = None, **facts: str) -> None:
        progress(start + (end - start) * (done / total if total else 0.0), 1.0, note=note)

    return report
