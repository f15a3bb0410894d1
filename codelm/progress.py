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
