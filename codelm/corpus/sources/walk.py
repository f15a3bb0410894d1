"""What lies below a folder, without following symbolic links: no loop and no way out exists."""

import os
import stat
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

from codelm.corpus.paths import is_never_entered, is_pruned
from codelm.corpus.sources.base import SYMLINK, Blob, Entry, FileBlob, LinkBlob, Origin, Rejection

INSTALLED = Rejection("vendored", "installed packages")
LINK = Rejection(SYMLINK, "not followed")
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"


class Found(NamedTuple):
    """A file, or something that is not read; a folder's path ends in "/"."""

    path: str
    """below the root, as `escaped` writes it"""
    file: Path
    size: int | None
    stamp: str
    rejection: Rejection | None

    def entry(self, origin: Origin, license: str | None = None, license_method: str = "unknown") -> Entry:
        """It as a file of an origin."""
        blob: Blob | None = FileBlob(self.file) if self.rejection is None else None
        if self.rejection == LINK:
            blob = LinkBlob(self.file)
        return Entry(origin, self.path, blob, self.size, self.stamp, self.rejection, license, license_method)


def walk(
    root: Path,
    skip: Path | None = None,
    visible: Container[str] | None = None,
    apart: Callable[[Path, set[str]], bool] | None = None,
) -> Iterator[Found]:
    """Everything below a folder, in any order; caches and version control come and go unseen.

    skip: a folder to leave out. visible: the paths of files and folders to see, others are left out.
    apart: is asked about each folder, with the names in it, and true for those that are looked at elsewhere.
    """
    if skip is not None and root.is_relative_to(skip):
        return
    pending = [(str(root), "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as found:
                children = list(found)
        except OSError as error:
            yield Found(escaped(prefix or "./"), Path(folder), None, "0", unreadable(error))
            continue
        names = {child.name for child in children}
        if prefix:
            if apart and apart(Path(folder), names):
                continue
            if is_pruned(os.path.basename(folder)) or VIRTUAL_ENVIRONMENT in names:  # noqa: PTH119
                yield Found(escaped(prefix), Path(folder), None, "0", INSTALLED)
                continue
        for child in children:
            path = prefix + child.name
            if visible is not None and path not in visible:
                continue
            try:
                if child.is_dir(follow_symlinks=False):
                    if not is_never_entered(child.name) and (skip is None or child.path != str(skip)):
                        pending.append((child.path, path + "/"))
                    continue
                status = child.stat(follow_symlinks=False)
            except OSError as error:
                yield Found(escaped(path), Path(child.path), None, "0", unreadable(error))
                continue
            rejection = None
            if stat.S_ISLNK(status.st_mode):
                rejection = LINK
            elif not stat.S_ISREG(status.st_mode):
                rejection = Rejection("unreadable", "not a regular file")
            yield Found(escaped(path), Path(child.path), status.st_size, str(status.st_mtime_ns), rejection)


def unreadable(error: OSError) -> Rejection:
    """The system does not let us see it."""
    return Rejection("unreadable", error.strerror or str(error))


def escaped(path: str) -> str:
    """A path of the file system in valid Unicode; bytes that are none are written as escapes."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def distinct(name: str, taken: set[str]) -> str:
    """The name, or with -2, -3 … the first that is not taken; it is from then on."""
    new = name
    count = 2
    while new in taken:
        new = f"{name}-{count}"
        count += 1
    taken.add(new)
    return new
