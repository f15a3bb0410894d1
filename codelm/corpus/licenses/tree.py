"""Which licence a file is under: by its package, by the licence file nearest to it, by its own header; the most restrictive wins."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from codelm.corpus.sources.base import Entry
from codelm.progress import Progress, silent


class License(NamedTuple):
    """What is known of a file's licence."""

    spdx: str | None
    """an SPDX expression, None if unknown"""
    method: str
    """header: in the file; file: a licence file above it; metadata, debian, distribution, column: who states it; unknown"""
    confidence: float
    """0 to 1"""
    sha: str | None
    """SHA-256 of the licence text around it"""
    copyright: list[str]


def is_license_name(path: str) -> bool:
    """Whether a file is a licence, copying, copyright or notice file, by its name."""
    raise NotImplementedError


def collect(entries: Iterable[Entry], folder: Path, progress: Progress = silent) -> None:
    """Reads and identifies licence files; writes `folder/trees.json` and `folder/texts/<sha256>.txt`."""
    raise NotImplementedError


class Trees:
    """What the licence files say, by repo and folder."""

    @classmethod
    def open(cls, folder: Path) -> "Trees":
        """What `collect` wrote; read once per process."""
        raise NotImplementedError

    def license(self, entry: Entry, text: str) -> License:
        """The licence of one file. text: its content."""
        raise NotImplementedError
