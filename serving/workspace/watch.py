"""What changes below a folder: told by the system where it can, else to be looked for."""

import posixpath
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import watchfiles

from codelm.corpus.paths import is_never_entered, is_pruned
from serving.workspace.ignore import EXCLUDE, IGNORE

TOGETHER_MS = 400
"""Changes that follow each other faster are told at once, such as those of a checkout."""
WAKE_MS = 500
"""How often the thread looks whether it is to end."""


class Watching(StrEnum):
    """How changes are noticed."""

    OFF = "off"
    EVENTS = "events"
    POLLING = "polling"


def changes(root: Path, stop: threading.Event) -> Iterator[frozenset[str]]:
    """Paths below a resolved folder at which something came, changed or went, until `stop` is set.

    "" stands for all of it, and is the first answer: from then on everything is told, but not what was before. Raises OSError
    or RuntimeError if the system cannot watch (any more): it has a limit of folders.
    """

    def concerns(_: watchfiles.Change, path: str) -> bool:
        return seen(relative(root, path))

    told = watchfiles.watch(
        root,
        watch_filter=concerns,
        debounce=TOGETHER_MS,
        stop_event=stop,
        rust_timeout=WAKE_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        ignore_permission_denied=True,
    )
    watched = False
    for batch in told:
        paths = frozenset(relative(root, path) for _, path in batch)
        if not watched or any(is_rule(path) for path in paths):
            yield frozenset(("",))
        elif paths:
            yield paths
        watched = True


def relative(root: Path, path: str) -> str:
    """A path below the root, with "/" between the parts; "" for the root itself."""
    below = Path(path).relative_to(root).as_posix()
    return "" if below == "." else below


def is_rule(path: str) -> bool:
    """Whether the file says which others are ignored."""
    return posixpath.basename(path) == IGNORE or path == EXCLUDE


def seen(path: str) -> bool:
    """Whether a change there may matter."""
    *folders, _ = path.split("/")
    return path == EXCLUDE or not any(is_never_entered(name) or is_pruned(name) for name in folders)
