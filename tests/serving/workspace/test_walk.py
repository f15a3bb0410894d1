"""Which files of a folder are seen, and that nothing outside it is."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.workspace.walk import MAX_BYTES, SkippedError, Walk, read_inside

NOBODY = 65534
SECRET = "secret_of_another_project = 1\n"
names = st.sampled_from(["a", "b.py", "c.js", "lib", "#x.py", "d e.py"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
patterns = st.lists(
    st.sampled_from(
        ["a", "a/", "/a", "*.py", "!b.py", "!*.js", "lib/*", "**/b.py", "a/**", "\\#x.py", "d e.py", "", "# no", "["]
    )
    | st.text(st.sampled_from("ab*?/!.[]\\ py"), max_size=8),
    max_size=4,
)
ignores = st.dictionaries(st.sampled_from(["", "a/", "lib/", "a/lib/"]), patterns, max_size=3)


def write(root: Path, path: str, text: str = "x = 1\n") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def found(root: Path, under: str = "") -> set[str]:
    return {path for path, _ in Walk(root).files(under)}


def reason(root: Path, path: str) -> str:
    with pytest.raises(SkippedError) as error:
        Walk(root).read(path)
    return str(error.value)


@settings(max_examples=60)
@given(
    st.lists(paths, max_size=8),
    ignores,
    st.lists(st.tuples(paths, st.sampled_from(["file", "folder", "up", "loop"])), max_size=3),
)
def test_what_git_sees_and_nothing_outside(
    files: list[str], ignore: dict[str, list[str]], links: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(os.path.realpath(folder))
        root = top / "project"
        root.mkdir()
        write(top, "other/b.py", SECRET)
        subprocess.run(["git", "init", "-q", root], check=True)
        for path in files:
            try:
                write(root, path)
            except OSError:  # a file stands where a folder should be
                continue
        for base, lines in ignore.items():
            if (root / base).is_dir():
                (root / base / ".gitignore").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for path, kind in links:
            target = {"file": top / "other" / "b.py", "folder": top / "other", "up": top, "loop": root}[kind]
            try:
                (root / path).symlink_to(target)
            except OSError:
                continue
        walk = Walk(root)
        seen = dict(walk.files())
        for path in seen:
            assert not (root / path).is_symlink()
            assert os.path.realpath(root / path) == str(root / path)
            assert SECRET not in walk.read(path).text
        git = subprocess.run(
            ["git", "-C", root, "ls-files", "-z", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
        ).stdout.split("\0")
        assert set(seen) == {path for path in git if path.endswith((".py", ".js")) and not (root / path).is_symlink()}
        for path in seen:
            assert found(root, path) == {path}


def test_hidden_vendored_built_and_other_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "src/a.py")
    for path in (".hidden/a.py", ".a.py", "node_modules/x/i.js", "vendor/x.go", "__pycache__/a.py", "build/lib/a.py",
                 "README.md", "a.png", "env/lib/python3/a.py", "mine/a.py", "a.min.js", "x_pb2.py"):  # fmt: skip
        write(tmp_path, path)
    write(tmp_path, "mine/pyvenv.cfg")
    assert found(tmp_path) == {"src/a.py"}


def test_ignore_files_above_the_root_and_gits_own_count(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    write(tmp_path, ".gitignore", "a.py\n/sub/b.py\n/c.py\n")
    write(tmp_path, ".git/info/exclude", "d.py\n")
    for path in "abcde":
        write(tmp_path, f"sub/{path}.py")
    assert found(tmp_path / "sub") == {"c.py", "e.py"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x = '\xff\xfe'\n", "encoding"),
        (b"x = 1\n\0\n", "binary"),
        (b"x = 1\n" + b"y" * 1_000_000, "long_lines"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.py").write_bytes(data)
    assert found(tmp_path) == {"a.py"}
    assert reason(tmp_path, "a.py") == why


def test_a_file_that_grew_since_it_was_seen(tmp_path: Path) -> None:
    file = write(tmp_path, "a.py")
    assert found(tmp_path) == {"a.py"}
    file.write_text("x = 1\n" * MAX_BYTES, encoding="utf-8")
    assert reason(tmp_path, "a.py") == "large"
    assert found(tmp_path) == set()


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    assert Walk(tmp_path).read("a.py").text == "x = 1\ny = 2\n"


def test_what_became_a_link_is_not_followed(tmp_path: Path) -> None:
    """Between being seen and being read."""
    secret = write(tmp_path, "other/b.py", SECRET)
    root = tmp_path / "project"
    write(root, "lib/b.py")
    assert found(root) == {"lib/b.py"}
    (root / "lib" / "b.py").unlink()
    (root / "lib" / "b.py").symlink_to(secret)
    with pytest.raises(OSError):
        Walk(root).read("lib/b.py")
    (root / "lib" / "b.py").unlink()
    (root / "lib").rmdir()
    (root / "lib").symlink_to(secret.parent)
    with pytest.raises(OSError):
        Walk(root).read("lib/b.py")
    for path in ("../other/b.py", "lib/../../other/b.py", str(secret)):
        with pytest.raises(OSError):
            read_inside(root, path, 100)


def test_what_is_no_regular_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.py")
    assert found(tmp_path) == set()
    with pytest.raises(OSError, match="no regular file"):
        read_inside(tmp_path, "a.py", 100)


def test_what_may_not_be_read_is_counted() -> None:
    with tempfile.TemporaryDirectory() as folder, unprivileged(Path(folder)):
        root = Path(os.path.realpath(folder))
        write(root, "closed/a.py")
        write(root, "b.py")
        (root / "closed").chmod(0)
        (root / "b.py").chmod(0)
        try:
            walk = Walk(root)
            assert [path for path, _ in walk.files()] == ["b.py"]
            assert walk.skipped["unreadable"] == 1
            with pytest.raises(PermissionError):
                walk.read("b.py")
        finally:
            (root / "closed").chmod(0o700)


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Gives a folder to nobody and goes on as nobody, if we are root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
