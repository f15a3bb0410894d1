"""The source files below a folder that are the project's own: what git sees of them, in languages that codelm learns.

Nothing outside the folder is opened: symbolic links are not followed, and a file is read only if its path has none in it.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from codelm.corpus.languages import language_of_name
from codelm.corpus.paths import is_never_entered, is_pruned, path_rejection
from serving.workspace.ignore import READ_LIMIT, Ignore, top_of

MAX_BYTES = 1 << 20
"""Of a file."""
MAX_LINE = 1_000
"""Characters: longer lines are minified code or data."""
NOT_OURS = ("vendored", "generated", "build", "hidden")
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"


class Stamp(NamedTuple):
    """By which a change of a file is seen."""

    mtime_ns: int
    size: int


class Source(NamedTuple):
    """A file as it was read. text: with "\\n" as line ends."""

    stamp: Stamp
    text: str


class SkippedError(Exception):
    """A file is not for the index. Its argument is the reason, in a word."""


class Walk:
    """Looks below a folder. skipped: reason → how many files and folders, of all that was looked at."""

    def __init__(self, root: Path) -> None:
        """root: a resolved path."""
        self.root = root
        self.top = top_of(root)
        self.skipped: Counter[str] = Counter()
        above = root.relative_to(self.top).as_posix() + "/"
        self.base = "" if above == "./" else above
        """of the root, seen from the top of its repository"""

    def files(self, under: str = "") -> Iterator[tuple[str, Stamp]]:
        """The files at or below a path, all if it is "", in any order: their paths below the root, and their stamps."""
        way = under.split("/") if under else []
        pending = [("", 0, self.ignore_above())]
        while pending:
            folder, depth, ignore = pending.pop()
            try:
                with os.scandir(self.root / folder) as found:
                    children = list(found)
            except OSError:
                self.skipped["unreadable"] += 1
                continue
            if folder and VIRTUAL_ENVIRONMENT in {child.name for child in children}:
                self.skipped["vendored"] += 1
                continue
            ignore = ignore.entered(self.base + folder, self.ignore_text)
            for child in children:
                if depth < len(way) and child.name != way[depth]:
                    continue
                path = folder + child.name
                try:
                    if child.is_dir(follow_symlinks=False):
                        if self.enters(path + "/", ignore):
                            pending.append((path + "/", depth + 1, ignore))
                    elif depth >= len(way) - 1 and (stamp := self.stamp(path, child, ignore)):
                        yield path, stamp
                except OSError:
                    self.skipped["unreadable"] += 1

    def enters(self, folder: str, ignore: Ignore) -> bool:
        """Whether a folder, whose path ends in "/", may hold files of the project."""
        name = folder[:-1].rpartition("/")[2]
        if is_never_entered(name):
            return False
        reason = "vendored" if is_pruned(name) else "ignored" if ignore.ignores(self.base + folder) else None
        if reason:
            self.skipped[reason] += 1
        return reason is None

    def stamp(self, path: str, entry: os.DirEntry[str], ignore: Ignore) -> Stamp | None:
        """The stamp of a file that is to be read, else None. Raises OSError if it has vanished."""
        if language_of_name(path) is None:
            return None
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            reason = "link"
        elif not path.isprintable():
            reason = "name"
        elif rejection := path_rejection(path, NOT_OURS):
            reason = rejection.reason
        elif status.st_size > MAX_BYTES:
            reason = "large"
        elif ignore.ignores(self.base + path):
            reason = "ignored"
        else:
            return Stamp(status.st_mtime_ns, status.st_size)
        self.skipped[reason] += 1
        return None

    def read(self, path: str) -> Source:
        """A file below the root. Raises SkippedError if its text is none to learn from, OSError if it cannot be read."""
        stamp, data = read_inside(self.root, path, MAX_BYTES)
        if len(data) > MAX_BYTES:
            raise SkippedError("large")
        if b"\0" in data:
            raise SkippedError("binary")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise SkippedError("encoding") from None
        text = text.replace("\r\n", "\n")
        if max(map(len, text.split("\n"))) > MAX_LINE:
            raise SkippedError("long_lines")
        return Source(stamp, text)

    def ignore_above(self) -> Ignore:
        """The patterns of the folders from the top of the repository to the one above the root. Of what is outside the
        root, these files alone are read."""
        ignore = Ignore()
        parts = self.base.split("/")[:-1]
        for depth in range(len(parts)):
            ignore = ignore.entered("".join(part + "/" for part in parts[:depth]), self.ignore_text)
        return ignore

    def ignore_text(self, path: str) -> str | None:
        """The text of an ignore file below the top, if there is one to be read."""
        try:
            return read_inside(self.top, path, READ_LIMIT)[1].decode("utf-8", "replace")
        except OSError:
            return None


def read_inside(root: Path, path: str, limit: int) -> tuple[Stamp, bytes]:
    """The stamp and the first `limit` + 1 bytes of a regular file below a resolved folder.

    Raises OSError if it is none, if a symbolic link is on the way, or if it cannot be read.
    """
    file = os.path.join(root, path)  # noqa: PTH118
    if os.path.realpath(file) != file or not file.startswith(os.path.join(root, "")):  # noqa: PTH118
        raise OSError(f"{path} leads elsewhere")
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as stream:  # noqa: PTH123
        # taken before reading: what changes meanwhile has another stamp
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file")
        return Stamp(status.st_mtime_ns, status.st_size), stream.read(limit + 1)
