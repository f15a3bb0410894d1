"""Git repositories: files at a commit without checkout, and what git knows of a checkout.

Repositories are not trusted: nothing in their configuration may run a program or reach a network.
"""

import atexit
import contextlib
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codelm.corpus.paths import is_never_entered, is_pruned
from codelm.corpus.sources.base import Entry, ListedSource, Origin, Rejection
from codelm.corpus.sources.walk import INSTALLED, LINK, VIRTUAL_ENVIRONMENT
from codelm.errors import UserError

REMOTE = re.compile(r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)([\w.-]+)(?::\d+)?[/:](.+?)(?:\.git)?/?$")
BROWSABLE = {"github.com": "blob", "gitlab.com": "-/blob", "codeberg.org": "src/commit"}
"""Host → the part of its addresses between a repository and a commit."""

SAFE = {
    "safe.directory": "*",  # whoever owns it: we only read
    "safe.bareRepository": "all",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
}
BROKEN = Rejection("unreadable", "broken git object")
MISSING = Rejection("unreadable", "git object that a partial clone left out")
DRAINED = 16_000_000
"""Bytes behind what was asked for that are read and thrown away, rather than starting git anew."""


def command(*arguments: str) -> list[str]:
    """A call of git that runs nothing the repository asks for."""
    settings = [word for name, value in SAFE.items() for word in ("-c", f"{name}={value}")]
    return ["git", "--no-pager", "--no-replace-objects", *settings, *arguments]


def environment(root: Path) -> dict[str, str]:
    """The environment for git in a folder: only this very folder counts, and missing objects are fetched from nowhere."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_CEILING_DIRECTORIES": str(root.parent),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs git in a folder. Raises OSError if there is no git."""
    return subprocess.run(
        command(*arguments), cwd=root, env=environment(root), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def answer(root: Path, *arguments: str) -> str | None:
    """What git answers about a folder, or None if it does not."""
    try:
        result = git(root, *arguments)
    except OSError:
        return None
    return result.stdout.decode("utf-8", "replace").strip() or None if result.returncode == 0 else None


def checkout_origin(root: Path, commit: str | None) -> Origin:
    """What a repository is called, and where to read its files: by its remote, or else by its folder."""
    remote = REMOTE.match(answer(root, "config", "--get", "remote.origin.url") or "") if commit else None
    if not remote:
        return Origin(root.name.removesuffix(".git") or "root", commit)
    host, repo = remote.groups()
    browse = BROWSABLE.get(host)
    prefix = f"https://{host}/{repo}/{browse}/{commit}/".replace("{", "{{").replace("}", "}}")
    return Origin(repo, commit, prefix + "{path}" if browse else None)


def visible_paths(root: Path) -> set[str] | None:
    """The files and folders of a checkout that are not ignored, other checkouts in it too; None if git does not tell."""
    try:
        result = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    except OSError:
        return None
    if result.returncode:
        return None
    paths: set[str] = set()
    for raw in result.stdout.split(b"\0"):
        path = os.fsdecode(raw).rstrip("/")
        while path and path not in paths:
            paths.add(path)
            path = path.rpartition("/")[0]
    return paths


class GitSource(ListedSource):
    """A repository at a commit, bare or not."""

    def __init__(self, given: str, root: Path, commit: str | None = None) -> None:
        """commit: anything that names one; default HEAD. Raises UserError if it is not there."""
        self.given = given
        try:
            if not root.is_dir():
                fix = "give the path of a git repository; clone one that is elsewhere: git clone --bare URL"
                raise UserError(f"{given}: no such folder", fix)
            self.root = root.resolve()
            found = git(self.root, "rev-parse", "--absolute-git-dir")
        except FileNotFoundError:
            raise UserError(f"{given}: git is not installed", "install git") from None
        except OSError as error:
            raise UserError(f"{given}: {error.strerror or error}", "give a folder that you may read and enter") from error
        if found.returncode:
            raise UserError(f"{given}: not a git repository", "give its top folder, or the folder itself without git:")
        sha = answer(self.root, "rev-parse", "--verify", "--end-of-options", f"{commit or 'HEAD'}^{{commit}}")
        if sha is None:
            what = f"has no commit {commit!r}" if commit else "has no commit yet, or its HEAD is broken"
            raise UserError(f"{given}: {what}", "name a commit, tag or branch that is in it: git:DIR@COMMIT")
        self.commit = sha

    @cached_property
    def origin(self) -> Origin:
        """The repository at the commit."""
        return checkout_origin(self.root, self.commit)

    def list(self) -> Iterator[Entry]:
        """All files; symbolic links, submodules, broken objects and installed packages as rejections.

        Raises UserError if there is nothing but what a partial clone left out.
        """
        entries = list(self.tree(self.commit, ""))
        rejections = {entry.rejection for entry in entries}
        if MISSING in rejections and None not in rejections:
            raise UserError(f"{self.given}: a partial clone without its files", "clone all of it: git clone --bare URL")
        # a virtual environment somebody committed
        environments = {
            entry.path.removesuffix(VIRTUAL_ENVIRONMENT) for entry in entries if entry.path.endswith("/" + VIRTUAL_ENVIRONMENT)
        }
        pruned: set[str] = set()
        for entry in entries:
            parts = entry.path.removeprefix("./").split("/")[:-1]  # "./" is all of it
            if any(map(is_never_entered, parts)):
                continue
            for depth, part in enumerate(parts, 1):
                folder = "/".join(parts[:depth]) + "/"
                if is_pruned(part) or folder in environments:
                    if folder not in pruned:
                        yield Entry(self.origin, folder, None, None, "0", INSTALLED)
                        pruned.add(folder)
                    break
            else:
                yield entry

    def tree(self, tree: str, prefix: str) -> Iterator[Entry]:
        """All entries below a tree, as git has them; a broken part of it is one rejection and the rest goes on."""
        # -l asks for every object, and where one was left out some versions of git give up
        sizes, long = (self.sizes, ()) if self.is_partial else ({}, ("-l",))
        whole = git(self.root, "ls-tree", "-r", "-z", *long, "--full-tree", tree)
        if whole.returncode == 0:
            for mode, kind, sha, size, path in lines(whole.stdout):
                yield self.entry(mode, kind, sha, sizes.get(sha, size), prefix + path)
            return
        here = git(self.root, "ls-tree", "-z", *long, "--full-tree", tree)
        if here.returncode:
            yield Entry(self.origin, prefix or "./", None, None, tree, MISSING if self.is_partial else BROKEN)
            return
        for mode, kind, sha, size, path in lines(here.stdout):
            if kind == "tree":
                yield from self.tree(sha, f"{prefix}{path}/")
            else:
                yield self.entry(mode, kind, sha, sizes.get(sha, size), prefix + path)

    @cached_property
    def is_partial(self) -> bool:
        """Whether objects were left out on purpose: https://git-scm.com/docs/partial-clone."""
        return answer(self.root, "config", "--get-regexp", r"^(remote\..*\.promisor|extensions\.partialclone)$") is not None

    @cached_property
    def sizes(self) -> dict[str, str]:
        """Object → bytes, of all that are here."""
        try:
            listing = git(
                self.root, "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname) %(objectsize)"
            )
        except OSError:
            return {}
        pairs = (line.split() for line in listing.stdout.decode("ascii", "replace").splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def entry(self, mode: str, kind: str, sha: str, size: str, path: str) -> Entry:
        """One line of a listing."""
        rejection = None
        if kind == "commit":
            rejection = Rejection("submodule", sha)
        elif mode == "120000":
            rejection = LINK
        elif not size.isdigit():
            rejection = MISSING if self.is_partial else BROKEN
        blob = GitBlob(self.root, sha) if rejection in (None, LINK) else None
        return Entry(self.origin, path, blob, int(size) if size.isdigit() else None, sha, rejection)


def lines(listing: bytes) -> Iterator[tuple[str, str, str, str, str]]:
    """(mode, kind, sha, size, path) of each entry that `git ls-tree -z` wrote; the size is "-" without its -l."""
    for line in filter(None, listing.split(b"\0")):
        facts, _, path = line.partition(b"\t")
        mode, kind, sha, *size = facts.decode().split()
        yield mode, kind, sha, size[0] if size else "-", path.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class GitBlob:
    """A file in a repository, read through a git that stays for the next one."""

    root: Path
    sha: str

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all; those are checked against the hash. Raises OSError for a broken object."""
        try:
            return reader(self.root).read(self.sha, limit)
        except OSError as error:
            raise OSError(f"broken git object {self.sha} ({error})") from error


class Reader:
    """`git cat-file --batch` in one repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def read(self, sha: str, limit: int) -> bytes:
        """The bytes of a blob; after an error the next call starts a new git."""
        with self.lock:
            try:
                data, size = self.ask(sha, limit)
            except OSError:
                self.close()
                raise
        if len(data) == size:
            name = hashlib.new("sha1" if len(sha) == 40 else "sha256", b"blob %d\0" % size)
            name.update(data)
            if name.hexdigest() != sha:
                raise OSError("its bytes do not have this hash")
        return data

    def ask(self, sha: str, limit: int) -> tuple[bytes, int]:
        """(bytes, size of all of it)."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = subprocess.Popen(
                command("cat-file", "--batch"),
                cwd=self.root,
                env=environment(self.root),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{sha}\n".encode())
        self.process.stdin.flush()
        header = self.process.stdout.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise OSError(b" ".join(header[1:]).decode("utf-8", "replace") or "git gave up")
        size = int(header[2])
        wanted = size if limit < 0 else min(limit, size)
        data = self.process.stdout.read(wanted)
        if size - wanted > DRAINED:
            self.close()
        elif len(data) < wanted or len(self.process.stdout.read(size - wanted + 1)) < size - wanted + 1:
            raise OSError("git gave up in the middle")
        return data, size

    def close(self) -> None:
        """Ends git, if it runs and is ours: a forked child leaves its parent's alone."""
        process, self.process = self.process, None
        if process is None or self.pid != os.getpid():
            return
        process.kill()
        with contextlib.suppress(OSError):
            process.communicate()


READERS: dict[Path, Reader] = {}
"""The repositories read last, by this process."""
KEPT = 4


def reader(root: Path) -> Reader:
    """This process's reader of a repository."""
    found = READERS.pop(root, None)
    if found is None or found.pid != os.getpid():
        found = Reader(root)
    READERS[root] = found
    while len(READERS) > KEPT:
        READERS.pop(next(iter(READERS))).close()
    return found


@atexit.register
def close_readers() -> None:
    """Ends all git processes of this process."""
    while READERS:
        READERS.popitem()[1].close()
