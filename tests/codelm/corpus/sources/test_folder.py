"""Folders of a user."""

import os
import pickle
import sys
import tempfile
from pathlib import Path

import pytest

from codelm.corpus.sources.base import Rejection
from codelm.corpus.sources.folder import FolderSource, StandardLibrary
from codelm.errors import UserError


def test_files_and_what_is_no_file(tmp_path: Path, tree, by_place) -> None:
    root = tree(
        tmp_path / "project",
        {
            "a.py": "a = 1\n",
            "package/b.py": b"\0\xff",
            "new\nline.py": "c = 3\n",
            "node_modules/x/index.js": "x",
            "mine/pyvenv.cfg": "home = /usr/bin\n",
            "mine/lib/y.py": "y",
            ".cache/z.py": "z",
            "package/__pycache__/b.pyc": "",
        },
    )
    os.write(fd := os.open(os.fsencode(root) + b"/latin-\xe9.py", os.O_CREAT | os.O_WRONLY), b"d = 4\n")
    os.close(fd)
    (root / "loop").symlink_to(root)
    (root / "package" / "link.py").symlink_to("b.py")
    os.mkfifo(root / "pipe.py")
    source = FolderSource(str(root), root)
    found = by_place(source.entries)
    assert {place.removeprefix("project:"): entry.rejection for place, entry in found.items()} == {
        "a.py": None,
        "package/b.py": None,
        "new\nline.py": None,
        "latin-\\xe9.py": None,
        "node_modules/": Rejection("vendored", "installed packages"),
        "mine/": Rejection("vendored", "installed packages"),
        "loop": Rejection("symlink", "not followed"),
        "package/link.py": Rejection("symlink", "not followed"),
        "pipe.py": Rejection("unreadable", "not a regular file"),
    }
    assert [entry.path for entry in source.entries] == sorted(entry.path for entry in source.entries)
    for name, content in (
        ("a.py", b"a = 1\n"),
        ("package/b.py", b"\0\xff"),
        ("new\nline.py", b"c = 3\n"),
        ("latin-\\xe9.py", b"d = 4\n"),
    ):
        entry = pickle.loads(pickle.dumps(found[f"project:{name}"]))
        assert entry.blob.read() == content
        assert entry.blob.read(1) == content[:1]
        assert entry.size == len(content)
        entry.path.encode()


def test_a_vanished_file_is_an_oserror_and_a_huge_one_is_not_read(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "project", {"a.py": "a = 1\n"})
    with (root / "huge.py").open("wb") as file:
        file.truncate(4 << 30)
    gone, huge = FolderSource(str(root), root).entries
    (root / "a.py").unlink()
    with pytest.raises(OSError):
        gone.blob.read()
    assert huge.size == 4 << 30
    assert huge.blob.read(10) == bytes(10)


def test_a_folder_that_may_not_be_read_is_a_rejection(tree) -> None:
    """Looked at by somebody who is not root, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        root = tree(Path(name), {"a.py": "a", "secret/b.py": "b"})
        root.chmod(0o755)
        (root / "secret").chmod(0)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setuid(65534)
            listed = [(entry.path, entry.rejection) for entry in FolderSource("project", root).entries]
            os.write(writing, repr(listed).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            found = pipe.read().decode()
        (root / "secret").chmod(0o700)
    assert found == repr([("a.py", None), ("secret/", Rejection("unreadable", "Permission denied"))])


def test_a_run_folder_is_no_part(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "project", {"a.py": "a", "runs/mine/corpus/b.py": "b", "runs/other/c.py": "c"})
    source = FolderSource(str(root), root, skip=root / "runs" / "mine")
    assert [entry.path for entry in source.entries] == ["a.py", "runs/other/c.py"]
    assert FolderSource("inside", root / "runs" / "mine" / "corpus", skip=root / "runs" / "mine").entries == ()


def test_a_checkout_has_its_commit_and_address_and_no_ignored_files(tmp_path: Path, tree, git, by_place) -> None:
    root = tree(
        tmp_path / "project",
        {
            ".gitignore": "*.log.py\n/out/\n",
            "a {b}.py": "a",
            "debug.log.py": "ignored",
            "out/c.py": "ignored",
            "kept/d.py": "d",
            "é.py": "e",
        },
    )
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", "git@github.com:owner/name.git")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    tree(root, {"untracked.py": "u", "kept/more.log.py": "ignored"})
    source = FolderSource(str(root), root)
    assert sorted(by_place(source.entries)) == [
        f"owner/name:{path}" for path in (".gitignore", "a {b}.py", "kept/d.py", "untracked.py", "é.py")
    ]
    origin = source.entries[1].origin
    commit = git(root, "rev-parse", "HEAD")
    assert origin.version == commit
    assert origin.url("a {b}.py") == f"https://github.com/owner/name/blob/{commit}/a%20%7Bb%7D.py"


@pytest.mark.parametrize(
    ("remote", "repo", "address"),
    [
        ("https://user:secret@github.com/owner/name", "owner/name", "https://github.com/owner/name/blob/"),
        ("https://gitlab.com/group/sub/name.git/", "group/sub/name", "https://gitlab.com/group/sub/name/-/blob/"),
        ("ssh://git@codeberg.org:22/owner/name.git", "owner/name", "https://codeberg.org/owner/name/src/commit/"),
        ("https://git.example.org/owner/name.git", "owner/name", None),
        ("/srv/git/name.git", "project", None),
    ],
)
def test_remotes(tmp_path: Path, tree, git, remote: str, repo: str, address: str | None) -> None:
    root = tree(tmp_path / "project", {"a.py": "a"})
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", remote)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    origin = FolderSource(str(root), root).entries[0].origin
    assert origin.repo == repo
    assert origin.address == (f"{address}{origin.version}/{{path}}" if address else None)


def test_checkouts_in_a_folder_are_origins_of_their_own(tmp_path: Path, tree, git, by_place) -> None:
    root = tree(
        tmp_path / "src",
        {"note.py": "n", "one/a.py": "a", "two/.gitignore": "no.py\n", "two/b.py": "b", "two/no.py": "n", "x/one/c.py": "c"},
    )
    for name in ("one", "two", "x/one"):
        git(root / name, "init", "-q")
    tree(root, {"two/inner/d.py": "d"})
    git(root / "two" / "inner", "init", "-q")
    found = by_place(FolderSource(str(root), root).entries)
    assert sorted(found) == ["inner:d.py", "one-2:c.py", "one:a.py", "src:note.py", "two:.gitignore", "two:b.py"]


def test_a_broken_checkout_is_a_folder(tmp_path: Path, tree, by_place) -> None:
    root = tree(tmp_path / "project", {"a.py": "a", ".git/HEAD": "\0nonsense", ".gitignore": "a.py\n"})
    assert sorted(by_place(FolderSource(str(root), root).entries)) == ["project:.gitignore", "project:a.py"]


def test_nothing_that_a_checkout_configures_is_run(tmp_path: Path, tree, git) -> None:
    root = tree(tmp_path / "project", {"a.py": "a"})
    git(root, "init", "-q")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(trap))
    assert [entry.path for entry in FolderSource(str(root), root).entries] == ["a.py"]
    git(root, "status")
    assert (tmp_path / "sprung").exists(), "the trap works"
    (tmp_path / "sprung").unlink()
    FolderSource(str(root), root).entries  # noqa: B018
    assert not (tmp_path / "sprung").exists()


def test_the_fingerprint_is_of_the_listing(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "project", {"a.py": "a", "b.py": "b"})
    first = FolderSource(str(root), root).fingerprint
    assert FolderSource(str(root), root).fingerprint == first
    os.utime(root / "a.py", ns=(1, 1))
    assert FolderSource(str(root), root).fingerprint != first


def test_missing_and_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        FolderSource("x", tmp_path / "x")
    (tmp_path / "y").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        FolderSource("y", tmp_path / "y")


def test_the_standard_library() -> None:
    source = StandardLibrary()
    decoder = next(entry for entry in source.entries if entry.path == "json/decoder.py")
    assert b"class JSONDecoder" in decoder.blob.read()
    assert decoder.origin.repo == "python/cpython"
    assert decoder.origin.version == sys.version.split()[0].rstrip("+")
    assert (decoder.origin.license, decoder.origin.license_method) == ("PSF-2.0", "distribution")
    assert decoder.origin.url(decoder.path).startswith("https://github.com/python/cpython/blob/v3.")
    assert not any(entry.path.startswith("site-packages/x") for entry in source.entries)
