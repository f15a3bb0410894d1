"""Folders: the user's own code, checkouts in it, files of Debian packages, and the standard library."""

import errno
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from codelm.config.corpus import STDLIB
from codelm.corpus.sources.base import Entry, ListedSource, Origin
from codelm.corpus.sources.debian import DebianPackages
from codelm.corpus.sources.git import answer, checkout_origin, visible_paths
from codelm.corpus.sources.walk import distinct, walk
from codelm.errors import UserError


class FolderSource(ListedSource):
    """A folder; each checkout in it, and each Debian package with files in it, is an origin of its own."""

    def __init__(self, given: str, root: Path, skip: Path | None = None, packages: DebianPackages | None = None) -> None:
        """skip: a folder that is no part of it. Raises UserError if `root` is not a folder."""
        self.given = given
        self.root = existing_folder(given, root)
        self.skip = skip
        self.packages = packages or DebianPackages()

    def list(self) -> Iterator[Entry]:
        """Its files; what git ignores is left out."""
        tops = [self.root]
        repos: set[str] = set()
        owners = self.packages.owners(self.root)
        while tops:
            tops.sort(reverse=True)  # names do not depend on the order in which the system lists folders
            top = tops.pop()

            def is_checkout(folder: Path, names: set[str]) -> bool:
                if ".git" in names:
                    tops.append(folder)
                return ".git" in names

            own_git = os.path.exists(top / ".git")  # noqa: PTH110 - no error where it may not be looked at
            commit = answer(top, "rev-parse", "HEAD") if own_git else None
            origin = checkout_origin(top, commit)
            origin = replace(origin, repo=distinct(origin.repo, repos))
            visible = visible_paths(top) if own_git else None
            for found in walk(top, self.skip, visible, is_checkout):
                package = owners.get(found.path) if owners and top == self.root else None
                if package is None:
                    yield found.entry(origin)
                else:
                    stated = None if found.rejection else self.packages.license(package, found.file)
                    yield found.entry(self.packages.origin(package), stated, "debian" if stated else "unknown")

    def license_files(self) -> Iterator[Entry]:
        """Those among the files, and those of Debian packages."""
        yield from super().license_files()
        yield from self.packages.license_files(self.entries)


class StandardLibrary(ListedSource):
    """The standard library of the running Python."""

    given = STDLIB

    def __init__(self, skip: Path | None = None) -> None:
        version = platform.python_version().rstrip("+")
        self.skip = skip
        self.origin = Origin(
            repo="python/cpython",
            version=version,
            address=f"https://github.com/python/cpython/blob/v{version}/Lib/{{path}}",
            license="PSF-2.0",
            license_method="distribution",
        )

    def list(self) -> Iterator[Entry]:
        """Its files."""
        for found in walk(Path(sysconfig.get_path("stdlib")).resolve(), self.skip):
            yield found.entry(self.origin)


def existing_folder(given: str, root: Path) -> Path:
    """A folder without links in its path. Raises UserError if there is none, or none that may be read."""
    try:
        if not root.exists():
            raise UserError(f"{given}: no such folder", "give the path of a folder with source code")
        if not root.is_dir():
            raise UserError(f"{given}: not a folder", "give the folder that holds the file")
        if not os.access(root, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return root.resolve()
    except OSError as error:
        raise UserError(f"{given}: {error.strerror or error}", "give a folder that you may read and enter") from error
