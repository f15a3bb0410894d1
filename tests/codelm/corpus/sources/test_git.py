"""Repositories without checkout."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.corpus.sources import git as module
from codelm.corpus.sources.base import Rejection
from codelm.corpus.sources.git import GitSource
from codelm.errors import UserError

LONG = "".join(f"value_{number} = {number}\n" for number in range(5000))


@pytest.fixture
def repository(tmp_path: Path, tree, git) -> Path:
    """Two commits; the second has files of every kind."""
    root = tree(tmp_path / "work", {"old.py": "old = 1\n", "deep/er/a.py": LONG})
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    git(root, "tag", "v1")
    tree(
        root,
        {
            "deep/b.py": "b = 2\n",
            "deep/er/c.py": "c = 3\n",
            "new\nline {x}.py": "n = 4\n",
            "node_modules/x/index.js": "x",
            "env/pyvenv.cfg": "home",
            "env/lib/d.py": "d",
            ".github/e.py": "e",
        },
    )
    (root / "old.py").unlink()
    (root / "link.py").symlink_to("deep/b.py")
    Path(os.fsdecode(os.fsencode(root) + b"/\xe9.py")).write_text("f = 5\n")
    git(root, "add", "-A")
    git(root, "update-index", "--add", "--cacheinfo", "160000," + git(root, "rev-parse", "HEAD") + ",sub/module")
    git(root, "commit", "-qm", "second")
    return root


def damage(repository: Path, git, name: str, content: bytes | None = None) -> None:
    """Breaks the loose object of a name: with other bytes, or in its middle."""
    sha = git(repository, "rev-parse", name)
    file = repository / ".git" / "objects" / sha[:2] / sha[2:]
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2) if content is None else content)


@pytest.mark.parametrize("bare", [False, True])
def test_all_files_at_a_commit(repository: Path, tmp_path: Path, git, by_place, bare: bool) -> None:
    (repository / "deep" / "b.py").write_text("changed, not committed\n")
    if bare:
        git(tmp_path, "clone", "-q", "--bare", str(repository), "work.git")
        repository = tmp_path / "work.git"
    source = GitSource("git:work", repository)
    found = by_place(source.entries)
    assert {place.removeprefix("work:"): entry.rejection for place, entry in found.items()} == {
        "deep/b.py": None,
        "deep/er/a.py": None,
        "deep/er/c.py": None,
        "new\nline {x}.py": None,
        "\\xe9.py": None,
        "link.py": Rejection("symlink", "not followed"),
        "sub/module": Rejection("submodule", git(repository, "rev-parse", "HEAD~1")),
        "node_modules/": Rejection("vendored", "installed packages"),
        "env/": Rejection("vendored", "installed packages"),
    }
    entry = pickle.loads(pickle.dumps(found["work:deep/b.py"]))
    assert entry.blob.read() == b"b = 2\n"
    assert entry.size == 6
    assert entry.stamp == git(repository, "rev-parse", "HEAD:deep/b.py")
    assert entry.origin.version == git(repository, "rev-parse", "HEAD")
    long = found["work:deep/er/a.py"].blob
    assert long.read() == LONG.encode()
    assert long.read(10) == LONG[:10].encode()
    assert found["work:new\nline {x}.py"].blob.read() == b"n = 4\n"


@pytest.mark.parametrize("commit", ["v1", "main~1", "HEAD^"])
def test_another_commit(repository: Path, commit: str) -> None:
    source = GitSource("git:work", repository, commit)
    assert [entry.path for entry in source.entries] == ["deep/er/a.py", "old.py"]
    assert source.entries[1].blob.read() == b"old = 1\n"


def test_the_fingerprint_is_the_commits(repository: Path, git) -> None:
    first = GitSource("git:work", repository).fingerprint
    git(repository, "gc", "-q")
    (repository / "untracked.py").write_text("u")
    assert GitSource("git:work", repository).fingerprint == first
    assert GitSource("git:work", repository, "v1").fingerprint != first


def test_a_remote_gives_name_and_address(repository: Path, git) -> None:
    git(repository, "remote", "add", "origin", "https://github.com/owner/name.git")
    source = GitSource("git:work", repository)
    assert source.origin.repo == "owner/name"
    assert source.origin.url("deep/b.py") == f"https://github.com/owner/name/blob/{source.commit}/deep/b.py"


@pytest.mark.parametrize("content", [b"garbage", b"", None])
def test_a_broken_blob_is_alone(repository: Path, git, by_place, content: bytes | None) -> None:
    damage(repository, git, "HEAD:deep/er/a.py", content)
    found = by_place(GitSource("git:work", repository).entries)
    broken = found["work:deep/er/a.py"]
    if broken.rejection is None:  # its header can be read
        for _ in range(2):
            with pytest.raises(OSError, match="broken git object"):
                broken.blob.read()
    else:
        assert broken.rejection == Rejection("unreadable", "broken git object")
    assert found["work:deep/b.py"].blob.read() == b"b = 2\n"


def test_other_bytes_than_the_hash_says_are_broken(repository: Path, git) -> None:
    """A whole object in the place of another one: git itself does not mind."""
    other = git(repository, "rev-parse", "HEAD:deep/b.py")
    damage(repository, git, "HEAD:deep/er/c.py", (repository / ".git" / "objects" / other[:2] / other[2:]).read_bytes())
    found = {entry.path: entry for entry in GitSource("git:work", repository).entries}
    with pytest.raises(OSError, match="broken git object"):
        found["deep/er/c.py"].blob.read()
    assert found["deep/b.py"].blob.read() == b"b = 2\n"


def test_a_broken_tree_hides_only_what_is_below(repository: Path, git, by_place) -> None:
    damage(repository, git, "HEAD:deep/er", b"garbage")
    found = by_place(GitSource("git:work", repository).entries)
    assert found["work:deep/er/"].rejection == Rejection("unreadable", "broken git object")
    assert found["work:deep/b.py"].blob.read() == b"b = 2\n"
    assert "work:new\nline {x}.py" in found
    assert "work:deep/er/a.py" not in found


def test_a_missing_object(repository: Path, git) -> None:
    entries = {entry.path: entry for entry in GitSource("git:work", repository).entries}
    sha = entries["deep/b.py"].stamp
    (repository / ".git" / "objects" / sha[:2] / sha[2:]).unlink()
    with pytest.raises(OSError, match="missing"):
        entries["deep/b.py"].blob.read()
    assert entries["deep/er/c.py"].blob.read() == b"c = 3\n"


@pytest.mark.parametrize("left_out", ["blob:none", "tree:0"])
def test_a_partial_clone_fetches_nothing(repository: Path, tmp_path: Path, git, left_out: str) -> None:
    """A missing object would be fetched from wherever the repository says, with a program that it names."""
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", f"--filter={left_out}", f"file://{repository}", "partial")
    partial = tmp_path / "partial"
    git(partial, "config", "remote.origin.uploadpack", f"touch {tmp_path}/sprung; git-upload-pack")
    source = GitSource("git:partial", partial)
    with pytest.raises(UserError, match="git:partial: a partial clone without its files") as error:
        list(source.entries)
    assert "git clone --bare" in error.value.fix
    assert not (tmp_path / "sprung").exists()
    subprocess.run(["git", "cat-file", "-p", "HEAD:deep/b.py"], cwd=partial, capture_output=True, check=False)
    assert (tmp_path / "sprung").exists(), "the trap works"


@pytest.mark.parametrize("left_out", ["blob:none", "blob:limit=1k"])
def test_what_a_partial_clone_left_out_is_counted(repository: Path, tmp_path: Path, git, by_place, left_out: str) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", f"--filter={left_out}", f"file://{repository}", "partial")
    partial = tmp_path / "partial"
    git(partial, "cat-file", "-p", "HEAD:deep/b.py")  # fetches this one
    found = by_place(GitSource("git:partial", partial).entries)
    assert found["partial:deep/b.py"].blob.read() == b"b = 2\n"
    assert found["partial:deep/b.py"].size == 6
    assert found["partial:deep/er/a.py"].rejection == Rejection("unreadable", "git object that a partial clone left out")
    assert (found["partial:deep/er/c.py"].rejection is None) == (left_out != "blob:none")


def test_a_repository_whose_top_is_broken_says_so(repository: Path, git) -> None:
    damage(repository, git, "HEAD^{tree}", b"garbage")
    (entry,) = GitSource("git:work", repository).entries
    assert (entry.path, entry.rejection) == ("./", Rejection("unreadable", "broken git object"))


def test_reading_in_another_process_and_in_a_forked_one(repository: Path) -> None:
    blob = next(entry.blob for entry in GitSource("git:work", repository).entries if entry.path == "deep/b.py")
    assert blob.read() == b"b = 2\n"
    program = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).read().decode(), end='')"
    arguments = [sys.executable, "-c", program, pickle.dumps(blob).hex()]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "b = 2\n"
    child = os.fork()
    if not child:
        os._exit(0 if blob.read() == b"b = 2\n" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert blob.read() == b"b = 2\n", "the child left our git alone"


def test_few_git_processes_stay(tmp_path: Path, tree, git) -> None:
    for number in range(module.KEPT + 2):
        root = tree(tmp_path / str(number), {"a.py": f"a = {number}\n"})
        git(root, "init", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "first")
        assert GitSource("git", root).entries[0].blob.read() == f"a = {number}\n".encode()
    assert len(module.READERS) == module.KEPT
    module.close_readers()
    assert not module.READERS
    assert GitSource("git", tmp_path / "0").entries[0].blob.read() == b"a = 0\n"


def test_the_start_of_a_huge_blob(tmp_path: Path, git) -> None:
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q")
    with (root / "huge.py").open("wb") as file:
        file.truncate(64_000_000)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    entry = GitSource("git", root).entries[0]
    assert entry.size == 64_000_000
    assert entry.blob.read(5) == bytes(5)
    assert module.reader(root.resolve()).process is None, "git is not asked for the rest"
    assert entry.blob.read(5) == bytes(5)


def test_what_is_no_repository(tmp_path: Path, repository: Path, git) -> None:
    with pytest.raises(UserError, match="no such folder"):
        GitSource("git:x", tmp_path / "x")
    with pytest.raises(UserError, match="not a git repository"):
        GitSource("git:deep", repository / "deep")  # a folder of one is not one
    with pytest.raises(UserError, match="no commit 'v9'"):
        GitSource("git:work@v9", repository, "v9")
    with pytest.raises(UserError, match="no commit '--help'"):
        GitSource("git:work@--help", repository, "--help")
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    with pytest.raises(UserError, match="no commit yet"):
        GitSource("git:empty", tmp_path / "empty")


def test_without_git(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        GitSource("git:work", repository)
