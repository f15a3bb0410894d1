"""What a request of the native protocol says of its project."""

from typing import Any

import pytest
from pydantic import ValidationError

from serving.protocols.native import InlineCompletionRequest, to_request
from serving.request import CompletionRequest, Recent, RecentKind, SourceFile


def asked(**codelm: Any) -> CompletionRequest:
    body = {
        "textDocument": {"uri": "file:///w/a%20b.py", "text": "x = "},
        "position": {"line": 0, "character": 4},
        "codelm": codelm,
    }
    return to_request(InlineCompletionRequest.model_validate(body))


def lines(start: int, end: int, character: int = 1) -> dict[str, Any]:
    return {"start": {"line": start, "character": 0}, "end": {"line": end, "character": character}}


def test_the_folders_of_the_editor() -> None:
    assert asked().roots == ()
    assert asked(workspaceFolders=None, rootUri=None).roots == (), "as LSP says that no folder is open"
    assert asked(rootUri="file:///w").roots == ("/w",)
    folders = [{"uri": "file:///w/one", "name": "one"}, {"uri": "vscode-remote://ssh/w/far"}, {"uri": "file:///w/two%20"}]
    assert asked(workspaceFolders=folders, rootUri="file:///w").roots == ("/w/one", "/w/two ")


def test_what_was_opened_and_edited() -> None:
    request = asked(
        files=[{"uri": "file:///w/b.py", "text": "a\r\nb\r\n"}],
        recent=[
            {"uri": "file:///w/c.py", "kind": "opened"},
            {"uri": "file:///w/d.py", "kind": "edited", "range": lines(2, 4), "text": "x\r\ny\n"},
            {"uri": "file:///w/e.py", "kind": "edited", "range": lines(2, 4, 0)},
            {"uri": "file:///w/f.py", "kind": "edited", "range": lines(2, 2, 0)},
        ],
    )
    assert request.files == (SourceFile(path="/w/b.py", text="a\nb\n"),)
    edited = RecentKind.EDITED
    assert request.recent == (
        Recent(path="/w/c.py", kind=RecentKind.OPENED),
        Recent(path="/w/d.py", kind=edited, first_line=2, last_line=4, text="x\ny\n"),
        Recent(path="/w/e.py", kind=edited, first_line=2, last_line=3),
        Recent(path="/w/f.py", kind=edited, first_line=2, last_line=2),
    )


@pytest.mark.parametrize(
    "codelm",
    [
        {"recent": [{"uri": "file:///w/c.py", "kind": "closed"}]},
        {"recent": [{"uri": "file:///w/c.py"}]},
        {"recent": [{"uri": "file:///w/c.py", "kind": "edited", "range": {"start": {"line": -1, "character": 0}}}]},
        {"workspaceFolders": ["file:///w"]},
        {"rootUri": 1},
    ],
)
def test_what_is_malformed_is_refused(codelm: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(**codelm)
