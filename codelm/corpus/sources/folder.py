"""Where source code comes from: the listing of a folder, and what is known of its origin."""

import os
import platform
import re
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from codelm.config.corpus import STDLIB
from codelm.corpus.paths import is_never_entered, is_pruned
from codelm.errors import UserError
from codelm.stage import digest

REMOTE = re.compile(r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)([\w.-]+)(?::\d+)?[/:](.+?)(?:\.git)?/?$")
BROWSABLE = {"github.com": "blob", "gitlab.com": "-/blob", "codeberg.org": "src/commit"}
"""Host → the part of its addresses between a repository and a commit."""


class Rejection(NamedTuple):
    """Why a file is not in the corpus: a reason out of few, and what tells this file apart."""

    reason: str
    detail: str = ""


class Entry(NamedTuple):
    """One file below a source, or one thing in it that is not read."""

    path: str
    """inside the source, "/" between parts, valid Unicode; a folder ends in "/" """
    file: Path
    size: int | None
    mtime_ns: int
    rejection: Rejection | None


class Source:
    """One source: its files, its name, its version, the address of a file, and the licence it is distributed under."""

    def __init__(self, root: Path, repo: str, version: str | None, address: str | None, license: str | None) -> None:
        """address: a format string with {path}. license: the SPDX id of all of it, if its distributor says so."""
        self.root = root
        self.repo = repo
        self.version = version
        self.address = address
        self.license = license
        self.skip: Path | None = None

    @cached_property
    def entries(self) -> list[Entry]:
        """Everything in it, in the order of the paths."""
        return sorted(walk(self.root, self.skip), key=lambda entry: entry.path)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the listing and the origin; contents do not enter, sizes and times of change do."""
        listing = [[entry.path, entry.size, entry.mtime_ns] for entry in self.entries]
        return digest([self.repo, self.version, self.address, self.license, listing])

    def url(self, path: str) -> str | None:
        """The address of a file in it."""
        return self.address.format(path=quote(path)) if self.address else None


def open_sources(sources: list[str], run: Path) -> list[Source]:
    """The sources of a configuration; files below `run` are not part of them, and no two have the same `repo`.

    Raises UserError for a source that is missing, not a folder, or has no files.
    """
    opened: list[Source] = []
    for given in sources:
        source = standard_library() if given == STDLIB else folder(Path(given))
        source.skip = run.resolve()
        names = {other.repo for other in opened}
        name = source.repo
        count = 2
        while source.repo in names:
            source.repo = f"{name}-{count}"
            count += 1
        if not source.entries:
            raise UserError(f"{given}: the folder is empty", "give a folder that holds source code")
        opened.append(source)
    return opened


def standard_library() -> Source:
    """The standard library of the running Python."""
    version = platform.python_version().rstrip("+")
    return Source(
        root=Path(sysconfig.get_path("stdlib")).resolve(),
        repo="python/cpython",
        version=version,
        address=f"https://github.com/python/cpython/blob/v{version}/Lib/{{path}}",
        license="PSF-2.0",
    )


def folder(root: Path) -> Source:
    """A folder of the user, with its commit and address if it is the top of a git checkout."""
    if not root.exists():
        raise UserError(f"{root}: no such folder", "give the path of a folder with source code")
    if not root.is_dir():
        raise UserError(f"{root}: not a folder", "give the folder that holds the file")
    root = root.resolve()
    commit = git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    remote = REMOTE.match(git(root, "config", "--get", "remote.origin.url") or "") if commit else None
    if not remote:
        return Source(root, root.name or "root", commit, None, None)
    host, repo = remote.groups()
    browse = BROWSABLE.get(host)
    prefix = f"https://{host}/{repo}/{browse}/{commit}/".replace("{", "{{").replace("}", "}}")
    return Source(root, repo, commit, prefix + "{path}" if browse else None, None)


def git(root: Path, *arguments: str) -> str | None:
    """What git answers about a checkout, or None if it does not."""
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def walk(root: Path, skip: Path | None) -> Iterator[Entry]:
    """Everything below a folder. Symbolic links are listed and not followed, so that no loop and no way out exists."""
    pending = [root]
    while pending:
        parent = pending.pop()
        try:
            children = list(os.scandir(parent))
        except OSError as error:
            yield Entry(inside(root, parent) + "/", parent, None, 0, Rejection("unreadable", str(error.strerror)))
            continue
        for child in children:
            file = Path(child.path)
            path = inside(root, file)
            if child.is_dir(follow_symlinks=False):
                if file == skip or is_never_entered(child.name):
                    continue
                if is_pruned(child.name) or (file / "pyvenv.cfg").exists():
                    yield Entry(f"{path}/", file, None, 0, Rejection("vendored", "installed packages"))
                else:
                    pending.append(file)
                continue
            try:
                status = child.stat(follow_symlinks=False)
            except OSError as error:
                yield Entry(path, file, None, 0, Rejection("unreadable", str(error.strerror)))
                continue
            rejection = None
            if stat.S_ISLNK(status.st_mode):
                rejection = Rejection("symlink", "not followed")
            elif not stat.S_ISREG(status.st_mode):
                rejection = Rejection("unreadable", "not a regular file")
            yield Entry(path, file, status.st_size, status.st_mtime_ns, rejection)


def inside(root: Path, file: Path) -> str:
    """The path inside a source; bytes that are no Unicode are written as escapes."""
    relative = file.relative_to(root).as_posix()
    return os.fsencode(relative).decode("utf-8", "backslashreplace")
