"""A folder's index, and what happens to its files."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import watchfiles

from serving.request import CompletionRequest, Recent, RecentKind, SourceFile
from serving.workspace import workspace as module
from serving.workspace.relevance import Source
from serving.workspace.walk import Walk
from serving.workspace.watch import Watching
from serving.workspace.workspace import Workspace

PREFIX = "from lib import open_store\n\nstore = open_store("


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def paths(workspace: Workspace, **options: object) -> list[str]:
    request = CompletionRequest(prefix=PREFIX, path=f"{workspace.root}/main.py", **options)  # type: ignore[arg-type]
    return [chunk.path for chunk in workspace.relevant(request, 1_000, str.encode)]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "main.py", "from lib import open_store\n")
    write(tmp_path, "lib.py", "def open_store(path):\n    return path\n")
    write(tmp_path, "far/away.py", "def unrelated(thing):\n    return thing\n")
    return tmp_path.resolve()


def test_what_comes_changes_and_goes(root: Path) -> None:
    workspace = Workspace(root)
    assert paths(workspace) == [], "nothing is read before it is asked for"
    workspace.refresh()
    assert paths(workspace)[0] == "lib.py"
    (root / "lib.py").rename(root / "library.py")
    write(root, "new.py", "def open_store_again(path):\n    return open_store(path)\n")
    workspace.refresh()
    assert set(paths(workspace)) == {"library.py", "new.py"}
    write(root, "far/away.py", "def open_store():\n    return 'from far away'\n")
    workspace.refresh("far")
    assert "far/away.py" in paths(workspace)[:2]
    write(root, ".gitignore", "far\n")
    (root / "new.py").unlink()
    workspace.refresh()
    assert paths(workspace) == ["library.py"]
    facts = workspace.facts()
    assert (facts["root"], facts["files"], facts["skipped"], facts["ready"]) == (str(root), 2, {"ignored": 1}, True)
    assert facts["seconds"] >= 0


def test_only_what_changed_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(root)
    workspace.refresh()
    read: list[str] = []
    walk_read = Walk.read

    def noted(self: Walk, path: str) -> object:
        read.append(path)
        return walk_read(self, path)

    monkeypatch.setattr(Walk, "read", noted)
    workspace.refresh()
    assert read == []
    os.utime(root / "lib.py", ns=(1, 1))
    workspace.refresh("lib.py")
    assert read == ["lib.py"]


def test_what_cannot_be_read_is_told_and_read_when_it_can(root: Path) -> None:
    file = write(root, "lib.py", "x = 1\n")
    file.write_bytes(b"\xff\xfe open_store")
    write(root, "long.py", "y" * 1_000_000)
    workspace = Workspace(root)
    workspace.refresh()
    assert workspace.facts()["skipped"] == {"encoding": 1, "long_lines": 1}
    write(root, "lib.py", "def open_store(path):\n    return path\n")
    workspace.refresh()
    assert workspace.facts()["skipped"] == {"long_lines": 1}
    assert paths(workspace)[0] == "lib.py"


def test_a_file_that_is_replaced_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp is that of the text that was read, so the next look sees the change."""
    walk_read = Walk.read

    def replaced(self: Walk, path: str) -> object:
        source = walk_read(self, path)
        if path == "lib.py":
            write(root, "other", "def open_store_of_now(path):\n    return path\n").replace(root / "lib.py")
        return source

    workspace = Workspace(root)
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "read", replaced)
        workspace.refresh()
    workspace.refresh()
    request = CompletionRequest(prefix=PREFIX, path=str(root / "main.py"))
    assert "open_store_of_now" in workspace.relevant(request, 1_000, str.encode)[0].text


def test_a_file_that_vanishes_before_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk_read = Walk.read

    def vanished(self: Walk, path: str) -> object:
        (root / "lib.py").unlink(missing_ok=True)
        return walk_read(self, path)

    workspace = Workspace(root)
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "read", vanished)
        workspace.refresh()
    assert workspace.facts()["skipped"] == {"unreadable": 1}
    workspace.refresh()
    assert workspace.facts()["skipped"] == {}


def test_no_more_files_and_no_more_text_than_allowed(root: Path) -> None:
    for number in range(20):
        write(root, f"deep/{number}.py", f"x_{number} = 1\n")
    workspace = Workspace(root, max_files=5)
    workspace.refresh()
    facts = workspace.facts()
    assert (facts["files"], facts["skipped"]) == (5, {"too_many": 18})
    assert workspace.has("lib.py"), "the nearest to the root are kept"
    workspace.refresh("deep")
    assert workspace.facts()["files"] == 5
    small = Workspace(root, max_text=100)
    small.refresh()
    assert small.facts()["characters"] <= 100
    assert small.facts()["skipped"]["too_much"] > 0


def test_ten_thousand_files(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder}" / f"{number}.py").write_text(f"call_{folder} = open_store\n" if number == 7 else "x\n")
    workspace = Workspace(tmp_path)
    workspace.refresh()
    assert workspace.facts()["files"] == 10_000
    assert len(paths(workspace)) > 10


def test_what_a_request_brings_along(root: Path) -> None:
    workspace = Workspace(root)
    workspace.refresh()
    text = "def open_store(path, mode):\n    return path\n"
    file = SourceFile(path=str(root / "lib.py"), text=text)
    request = CompletionRequest(prefix=PREFIX, path=str(root / "main.py"), files=(file,))
    assert [chunk.text for chunk in workspace.relevant(request, 1_000, str.encode) if chunk.path == "lib.py"] == [text]
    outside = Recent(path="/elsewhere/b.py", kind=RecentKind.EDITED, first_line=10, last_line=11, text=text)
    found = [one.chunk for one in workspace.rank(CompletionRequest(prefix=PREFIX, recent=(outside,)), [Source.EDITED])]
    assert [(chunk.path, chunk.start, chunk.end) for chunk in found] == [("elsewhere/b.py", 10, 12)]


def test_without_a_root_nothing_is_read(root: Path) -> None:
    workspace = Workspace(None)
    workspace.start()
    workspace.refresh()
    mention = Recent(path=str(root / "lib.py"), kind=RecentKind.EDITED)
    assert workspace.rank(CompletionRequest(prefix=PREFIX, path=str(root / "main.py"), recent=(mention,))) == []
    workspace.close()


def test_a_path_outside_the_root_is_never_read(root: Path) -> None:
    secret = write(root.parent, "secret.py", "def open_store_secret(path):\n    return path\n")
    workspace = Workspace(root)
    workspace.refresh()
    workspace.refresh("../secret.py")
    mentions = tuple(
        Recent(path=path, kind=RecentKind.EDITED) for path in (str(secret), f"{root}/../secret.py", "../secret.py")
    )
    for path in (str(secret), f"{root}/../main.py"):
        ranked = workspace.rank(CompletionRequest(prefix=PREFIX, path=path, recent=mentions))
        assert all("secret" not in one.chunk.text for one in ranked)


def test_changes_are_noticed(root: Path) -> None:
    workspace = Workspace(root)
    workspace.start()
    eventually(lambda: workspace.facts()["watching"] == Watching.EVENTS)
    eventually(lambda: workspace.has("lib.py"))
    write(root, "sub/folder/new.py", "def open_store_new():\n    pass\n")
    eventually(lambda: workspace.has("sub/folder/new.py"))
    (root / "sub" / "folder").rename(root / "moved")
    eventually(lambda: workspace.has("moved/new.py") and not workspace.has("sub/folder/new.py"))
    write(root, ".gitignore", "moved/\n")
    eventually(lambda: not workspace.has("moved/new.py"))
    workspace.close()


def test_where_the_system_does_not_tell_of_changes_they_are_looked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    workspace = Workspace(root)
    workspace.start()
    eventually(lambda: workspace.facts()["watching"] == Watching.POLLING)
    write(root, "new.py", "def open_store_new():\n    pass\n")
    eventually(lambda: workspace.has("new.py"))
    (root / "new.py").unlink()
    eventually(lambda: not workspace.has("new.py"))
    workspace.close()
