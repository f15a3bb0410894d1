"""Which folder a request is about."""

from pathlib import Path

import pytest

from serving.request import CompletionRequest
from serving.workspace.roots import root_of


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path.resolve() / "project"


def asked(path: Path | str | None, *roots: Path | str, document: str | None = None) -> Path | None:
    given = None if path is None else str(path)
    document = document or (f"file://{path}" if path else "untitled:1")
    return root_of(CompletionRequest(prefix="", path=given, document=document, roots=tuple(map(str, roots))))


def test_the_repository_around_the_document(project: Path) -> None:
    assert asked(project / "lib" / "a.py") == project
    assert asked(project.parent / "elsewhere" / "a.py") is None


def test_the_innermost_folder_of_the_editor(project: Path) -> None:
    assert asked(project / "lib" / "a.py", project.parent, project / "lib", project / "lib" / "deep") == project / "lib"
    assert asked(project / "lib" / "a.py", project.parent / "elsewhere") == project
    assert asked(project.parent / "a.py", project) == project


def test_a_document_without_a_place(project: Path) -> None:
    assert asked(None, project) == project
    assert asked("1", project, document="untitled:1") == project
    assert asked(None) is None


def test_what_is_on_another_machine_is_not_looked_for_here(project: Path) -> None:
    assert asked(project / "lib" / "a.py", document=f"vscode-remote://ssh-remote+host{project}/lib/a.py") is None


def test_what_is_no_folder_or_far_too_much_is_not_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project.parent))
    for root in ("/", str(project.parent), "relative", str(project / "missing"), "\x00"):
        assert asked(None, root) is None
    assert asked(project / "lib" / "a.py", "/") is None
    (project.parent / "link").symlink_to("/")
    assert asked(None, project.parent / "link") is None
