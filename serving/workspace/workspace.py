"""The source files below a folder, in an index that follows what happens to them."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import Any

from serving.request import CompletionRequest
from serving.workspace.chunks import Chunk, cut
from serving.workspace.imports import Imports
from serving.workspace.index import Index
from serving.workspace.relevance import ALL, Cursor, Encode, Mention, Scored, Source, chunks_of, fit, rank
from serving.workspace.walk import SkippedError, Stamp, Walk
from serving.workspace.watch import Watching, changes

logger = logging.getLogger(__name__)

MAX_FILES = 10_000
"""The ones nearest to the root are kept."""
MAX_SEEN = 200_000
"""Files that are looked at to find those."""
MAX_TEXT = 64 * 2**20
"""Characters of all files."""
MANY_CHANGES = 32
"""At once: looking at everything is quicker then."""
POLL_SECONDS = 5.0
POLL_SHARE = 0.02
"""Of the time that may go into looking for changes where the system does not tell them."""
HEAD = 1 << 16
"""Characters of the open file among which its imports are looked for."""
BREATH = 0.001
"""Seconds after each file that is indexed: a completion should not have to wait for all of them."""


class Workspace:
    """Safe to use from every thread. What is not there yet is not found: no request waits for the disk."""

    def __init__(
        self,
        root: Path | None,
        max_files: int = MAX_FILES,
        max_text: int = MAX_TEXT,
        *,
        chunks: bool = True,
        on_file: Callable[[str, str | None], object] = lambda path, text: None,
    ) -> None:
        """root: the folder; None: nothing is read, and what requests bring along is all there is. chunks: whether they are
        wanted. on_file: hears the whole path of each file with its text, and with None when it is gone or about to change.

        `start` keeps it up to date in a thread of its own, `refresh` does so once.
        """
        self.root = None if root is None else Path(os.path.realpath(root))
        self.max_files, self.max_text = max_files, max_text
        self._chunks, self._on_file = chunks, on_file
        self._index = Index()
        self._imports = Imports()
        self._stamps: dict[str, Stamp] = {}
        """of all files that were read"""
        self._rejected: dict[str, str] = {}
        """of those the ones that are not in the index, and why"""
        self._sizes: dict[str, int] = {}
        """of those that are, in characters"""
        self._characters = 0
        self._skipped: Counter[str] = Counter()
        """what was not read at the last look at everything"""
        self._seconds: float | None = None
        self._watching = Watching.OFF
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.root.name if self.root else ""

    def start(self) -> None:
        """Begins to index and to watch; returns at once."""
        if self.root and not self._thread:
            self._thread = threading.Thread(target=self._follow, args=(self.root,), name="workspace", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Has the thread end soon; returns at once."""
        self._stop.set()

    def close(self) -> None:
        """Ends the thread."""
        self.stop()
        if self._thread:
            self._thread.join()

    def below(self, path: str) -> str:
        """A path as the workspace has it: below the root, else whole but for the first "/"."""
        if self.root and os.path.isabs(path):  # noqa: PTH117
            real = os.path.realpath(path)
            top = self.root.as_posix().rstrip("/") + "/"
            if real.startswith(top):
                return real.removeprefix(top)
        return path.lstrip("/")

    def has(self, path: str) -> bool:
        """Whether a file is in the index. path: below the root."""
        return path in self._index.files

    def rank(self, request: CompletionRequest, sources: Collection[Source] = ALL) -> list[Scored]:
        """The chunks that matter to a request, the best first."""
        path = self.below(request.path or "")
        given: list[Chunk] = []
        replaced = set()
        mentions = []
        for file in request.files:
            replaced.add(self.below(file.path))
            given += chunks_of(self.below(file.path), file.text)
        for recent in request.recent:
            start = recent.first_line or 0
            end = None if recent.last_line is None else recent.last_line + 1
            mention = Mention(self.below(recent.path), recent.kind, start, end)
            mentions.append(mention)
            if recent.text is not None and mention.path not in replaced:
                if not start and end is None:
                    replaced.add(mention.path)
                for chunk in chunks_of(mention.path, recent.text):
                    given.append(chunk._replace(start=chunk.start + start, end=chunk.end + start))
        text = (request.prefix + request.suffix[:HEAD])[:HEAD]
        with self._lock:
            imports = self._imports.of(path, text)
            cursor = Cursor(path, request.prefix, request.suffix, imports, tuple(given), frozenset(replaced), tuple(mentions))
            return rank(self._index, cursor, sources)

    def relevant(
        self, request: CompletionRequest, budget_tokens: int, encode: Encode, sources: Collection[Source] = ALL
    ) -> list[Chunk]:
        """The best of them that fit into a budget, with the names of their files; the same for the same state."""
        return [one.chunk for one in fit(self.rank(request, sources), budget_tokens, encode)]

    def refresh(self, under: str = "") -> None:
        """Looks for what has come, changed or gone, at and below a path, or everywhere."""
        if self.root is None:
            return
        started = time.monotonic()
        walk = Walk(self.root)
        found = dict(islice(walk.files(under), MAX_SEEN))
        known = {path for path in self._stamps if not under or path == under or path.startswith(f"{under}/")}
        others = len(self._stamps) - len(known)
        kept = sorted(found, key=lambda path: (path.count("/"), path))[: max(0, self.max_files - others)]
        if len(kept) < len(found):
            walk.skipped["too_many"] += len(found) - len(kept)
        before = set(self._index.files)
        for path in sorted(known - set(kept)):
            self._forget(path)
        for path in kept:
            if self._stop.is_set():
                return
            if self._stamps.get(path) != found[path]:
                self._take(walk, path, found[path])
                time.sleep(BREATH if self._thread else 0)
        if set(self._index.files) != before:
            imports = Imports(self._index.files)
            with self._lock:
                self._imports = imports
        if not under:
            self._skipped, self._seconds = walk.skipped, time.monotonic() - started

    def facts(self) -> dict[str, Any]:
        """How much there is, what was left out and why, and how long the last look at everything took."""
        with self._lock:
            skipped = self._skipped + Counter(self._rejected.values())
            return {
                "root": str(self.root) if self.root else None,
                "ready": self._seconds is not None,
                "files": len(self._index.files),
                "chunks": len(self._index),
                "characters": self._characters,
                "bytes": sum(self._stamps[path].size for path in self._sizes),
                "skipped": dict(sorted(skipped.items())),
                "seconds": None if self._seconds is None else round(self._seconds, 3),
                "watching": self._watching.value,
            }

    def _take(self, walk: Walk, path: str, stamp: Stamp) -> None:
        """Reads a file and puts it into the index, or notes why not."""
        self._forget(path)
        reason: str | None = None
        try:
            source = walk.read(path)
        except OSError:
            self._stamps[path], reason = stamp, "unreadable"
        except SkippedError as why:
            self._stamps[path], reason = stamp, str(why)
        else:
            self._stamps[path] = source.stamp
            if self._characters + len(source.text) > self.max_text:
                reason = "too_much"
        with self._lock:
            if reason:
                self._rejected[path] = reason
            else:
                self._index.put(path, cut(path, source.text) if self._chunks else [])
                self._sizes[path] = len(source.text)
                self._characters += len(source.text)
        if not reason:
            self._on_file(self._whole(path), source.text)

    def _whole(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _forget(self, path: str) -> None:
        if path in self._sizes:
            self._on_file(self._whole(path), None)
        with self._lock:
            self._stamps.pop(path, None)
            self._rejected.pop(path, None)
            self._characters -= self._sizes.pop(path, 0)
            self._index.remove(path)

    def _follow(self, root: Path) -> None:
        """The thread: first everything, then what changes."""
        try:
            self.refresh()
            try:
                for paths in changes(root, self._stop):
                    self._watching = Watching.EVENTS
                    for path in sorted(paths) if len(paths) <= MANY_CHANGES else [""]:
                        self.refresh(path)
            except (OSError, RuntimeError) as error:
                logger.info("%s is not watched but looked at again and again: %s", root, error)
            while not self._stop.is_set():
                self._watching = Watching.POLLING
                self._stop.wait(max(POLL_SECONDS, (self._seconds or 0) / POLL_SHARE))
                self.refresh()
        except Exception:
            logger.exception("the index of %s is not kept up to date any more", root)
