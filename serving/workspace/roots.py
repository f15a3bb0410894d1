"""Which folder a request is about."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from serving.request import CompletionRequest
from serving.workspace.ignore import top_of


def root_of(request: CompletionRequest) -> Path | None:
    """The innermost folder of the editor's in which the document is, else the repository around it, else the editor's first.

    A document without a path of this machine, such as an unsaved one, is taken to be in the first. None if there is no such
    folder, or if it would be all of the disk or of the user's home.
    """
    roots = real_roots(request)
    first = roots[0] if roots else None
    if folder := folder_of(request):
        around = [root for root in roots if folder.is_relative_to(root)]
        top = top_of(folder)
        repository = top if os.path.lexists(top / ".git") else None
        root = max(around, key=lambda root: len(root.parts), default=repository or first)
    else:
        root = first
    return root if root and root.is_dir() and not too_wide(root) else None


def place_of(request: CompletionRequest) -> Path | None:
    """Where a request stands among folders of this machine: the document's own one, else the editor's first."""
    return folder_of(request) or next(iter(real_roots(request)), None)


def real_roots(request: CompletionRequest) -> list[Path]:
    """The editor's folders, without symbolic links."""
    return [Path(os.path.realpath(root)) for root in request.roots if os.path.isabs(root)]  # noqa: PTH117


def folder_of(request: CompletionRequest) -> Path | None:
    """The folder of a document that is a file of this machine, without symbolic links."""
    if request.path and os.path.isabs(request.path) and is_local(request.document):  # noqa: PTH117
        return Path(os.path.realpath(request.path)).parent
    return None


def is_local(document: str | None) -> bool:
    """Whether a document's URI is of a file of this machine, and not one in a remote editor."""
    try:
        return document is None or urlsplit(document).scheme in ("", "file")
    except ValueError:
        return False


def too_wide(root: Path) -> bool:
    """Whether a folder holds far more than a project."""
    return root == Path(root.anchor) or Path(os.path.realpath(Path.home())).is_relative_to(root)
