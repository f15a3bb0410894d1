"""What every source of code gives: pieces of work, each a run of entries, and the licence texts that stand beside them."""

import os
import pickle
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from codelm.stage import digest

SYMLINK = "symlink"
"""The reason why a symbolic link is not in the corpus."""
MAX_LINKS = 8
"""From link to link."""
MAX_PATH = 4096


class Rejection(NamedTuple):
    """Why a file is not in the corpus: a reason out of few, and what tells this file apart."""

    reason: str
    detail: str = ""


class Blob(Protocol):
    """The bytes of one file, wherever they lie. Can be pickled."""

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all. Raises OSError if they are not to be had (any more)."""
        ...


@dataclass(frozen=True)
class Origin:
    """What one repository or package says of all its files."""

    repo: str
    """its name, no two alike in a corpus: the folder, python/cpython, pypi/requests, npm/lodash, owner/name"""
    version: str | None = None
    """of the package, or the commit"""
    address: str | None = None
    """where to read a file: a format string with {path}"""
    license: str | None = None
    """an SPDX expression, if whoever distributes it states one"""
    license_method: str = "unknown"
    """who states it: distribution, metadata, debian, column"""

    def url(self, path: str) -> str | None:
        """The address of a file in it."""
        return self.address.format(path=quote(path)) if self.address else None


class Entry(NamedTuple):
    """One file of a source, or one thing in it that is not read."""

    origin: Origin
    path: str
    """inside the origin, "/" between parts, valid Unicode; a folder ends in "/" """
    blob: Blob | None
    """None for what cannot be read: then there is a rejection; of a symbolic link its target, as a path"""
    size: int | None
    """bytes"""
    stamp: str
    """changes whenever the bytes may have: time of change or hash"""
    rejection: Rejection | None = None
    license: str | None = None
    """an SPDX expression stated for this very file by something outside it (a column, Debian's copyright file)"""
    license_method: str = "unknown"


class Piece(Protocol):
    """A part of a source that one task works off. Can be pickled; the same entries in the same order each time."""

    @property
    def size(self) -> int:
        """Bytes, for the progress bar."""
        ...

    def entries(self) -> Iterable[Entry]:
        """Its entries."""
        ...


@dataclass(frozen=True)
class Listed:
    """A piece of entries that are listed already."""

    size: int
    listed: tuple[Entry, ...]

    def entries(self) -> Iterable[Entry]:
        """Its entries."""
        return self.listed


class Source(ABC):
    """One source of code."""

    given: str
    """as the user wrote it"""

    @abstractmethod
    def pieces(self, size: int) -> Iterator[Piece]:
        """All of it in a fixed order, in pieces of about `size` bytes."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the listing and the origins; found without reading contents (sizes, times of change, hashes)."""

    def license_files(self) -> Iterable[Entry]:
        """Licence, copying and notice files, which hold for what stands beside and below them in their origin."""
        return ()


class ListedSource(Source):
    """A source whose entries fit in memory."""

    @abstractmethod
    def list(self) -> Iterable[Entry]:
        """Its entries in any order."""

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Everything in it, in the order of repo and path."""
        return tuple(sorted(self.list(), key=lambda entry: (entry.origin.repo, entry.path)))

    def pieces(self, size: int) -> Iterator[Piece]:
        """All of it, at most 4,096 entries in a piece."""
        taken: list[Entry] = []
        total = 0
        for entry in self.entries:
            taken.append(entry)
            total += entry.size or 0
            if total >= size or len(taken) >= 4096:
                yield Listed(total, tuple(taken))
                taken, total = [], 0
        if taken:
            yield Listed(total, tuple(taken))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the listing."""
        origins = {entry.origin for entry in self.entries}
        return digest(
            [
                sorted([o.repo, o.version or "", o.address or "", o.license or "", o.license_method] for o in origins),
                [[e.origin.repo, e.path, e.size, e.stamp, e.license] for e in self.entries],
            ]
        )

    def license_files(self) -> Iterable[Entry]:
        """Those that are named like one."""
        from codelm.corpus.licenses.tree import is_license_name

        named = [e for e in self.entries if not e.path.endswith("/") and is_license_name(e.path)]
        links = any(e.rejection and e.rejection.reason == SYMLINK for e in named)
        files = {(e.origin.repo, e.path): e for e in self.entries} if links else {}
        return [followed(e, files) for e in named if e.rejection is None or e.rejection.reason in (SYMLINK, "unreadable")]


def followed(entry: Entry, files: Mapping[tuple[str, str], Entry]) -> Entry:
    """A licence file by its own path with the text of the file of its origin that it links to; itself if it is no such link.

    files: all entries by repo and path. No other file on this machine is ever looked at.
    """
    target = entry
    for _ in range(MAX_LINKS):
        if target.rejection is None:
            return target._replace(path=entry.path)
        if target.rejection.reason != SYMLINK or target.blob is None:
            break
        try:
            link = target.blob.read(MAX_PATH).decode("utf-8", "backslashreplace")
        except OSError:
            break
        if "/../" in link.lstrip("./"):
            break  # out of a folder that may be a link itself
        there = posixpath.normpath(posixpath.join(posixpath.dirname(target.path), link))
        found = files.get((entry.origin.repo, there))
        if found is None:
            break
        target = found
    return entry


@dataclass(frozen=True)
class FileBlob:
    """A file on disk."""

    path: Path

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all."""
        with self.path.open("rb") as file:
            return file.read(limit)


@dataclass(frozen=True)
class LinkBlob:
    """Where a symbolic link on disk points, as bytes of a path."""

    path: Path

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all."""
        target = os.fsencode(self.path.readlink())
        return target if limit < 0 else target[:limit]


@dataclass(frozen=True)
class TextBlob:
    """Bytes that are here already, of a row of a table."""

    data: bytes

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all."""
        return self.data if limit < 0 else self.data[:limit]


def save_piece(piece: Piece, path: Path) -> None:
    """Writes a piece down for the worker that will take it."""
    path.write_bytes(pickle.dumps(piece))


def load_piece(path: Path) -> Piece:
    """A piece that `save_piece` wrote: our own file in our own run folder."""
    piece: Piece = pickle.loads(path.read_bytes())  # noqa: S301
    return piece
