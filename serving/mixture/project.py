"""The rows of all other files of a project, kept up in a thread of their own."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.mixture.open_file import Encode, blocks, rows, whole
from serving.mixture.table import Rows, Table
from serving.mixture.weights import Source

logger = logging.getLogger(__name__)

BATCH = 64
"""Documents that are taken into the table at once: each time all of it is copied."""

Content = str | Sequence[int]


class Snapshot(NamedTuple):
    """The project at one moment. sources: of each tag; tags: of each document; both arrays and table are never changed."""

    table: Table
    sources: npt.NDArray[np.int8]
    tags: dict[str, int]


class Encoded(NamedTuple):
    """A document's ids, None if they are those of the table, and what tells whether it has changed."""

    content: int
    ids: tuple[int, ...] | None


class Document(NamedTuple):
    """What is known of a document in the table."""

    tag: int
    content: int
    tokens: int
    source: Source


class Project:
    """Documents by name. Safe to use from every thread; updates are done in another, in the order they came."""

    def __init__(self, encode: Encode, max_tokens: int, on_change: Callable[[], object]) -> None:
        """max_tokens: of all documents; those of the workspace that have not changed for longest are left out first.

        on_change: called in the thread when the snapshot is another one.
        """
        self._encode = encode
        self._max_tokens = max_tokens
        self._on_change = on_change
        self.snapshot = Snapshot(Table.empty(), np.zeros(0, dtype=np.int8), {})
        self._documents: dict[str, Document] = {}
        self._free: list[int] = []
        self._waiting: dict[str, tuple[Content, Source] | None] = {}
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._work, name="mixture", daemon=True)
        self._thread.start()

    def update(self, name: str, content: Content | None, source: Source) -> None:
        """Soon the document has this content, or is gone where it is None."""
        with self._changed:
            self._waiting.pop(name, None)
            self._waiting[name] = None if content is None else (content, source)
            self._changed.notify_all()

    def limit(self, max_tokens: int) -> None:
        """Soon there are no more tokens than that, until the limit is another one."""
        with self._changed:
            self._max_tokens = max_tokens
            self._changed.notify_all()

    def wait(self) -> None:
        """Returns when all updates so far are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy or self._too_large))

    @property
    def _too_large(self) -> bool:
        return len(self.snapshot.table) > self._max_tokens

    def close(self) -> None:
        """Ends the thread; what was not done yet is not done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._waiting or self._too_large)
                if self._closed:
                    return
                batch = {name: self._waiting.pop(name) for name in list(self._waiting)[:BATCH]}
                self._busy = True
            self._apply({name: item and (self._encoded(name, item[0]), item[1]) for name, item in batch.items()})
            self._on_change()

    def _encoded(self, name: str, content: Content) -> Encoded | None:
        """The ids of a document; None if it has none. Keeps what it has where it has not changed."""
        key = hash(content if isinstance(content, str) else tuple(content))
        old = self._documents.get(name)
        if old and old.content == key:
            return Encoded(key, None)
        try:
            if isinstance(content, str):
                # block by block, as the open file
                content = [token for block in blocks(content) for token in self._encode(block)]
            return Encoded(key, tuple(content))
        except Exception:  # the others are still good
            logger.exception("%s could not be taken into the mixture", name)
            return None

    def _apply(self, batch: dict[str, tuple[Encoded | None, Source] | None]) -> None:
        gone: list[int] = []
        added: dict[int, Rows] = {}
        for name, item in batch.items():
            encoded, source = item or (None, Source.WORKSPACE)
            if encoded and encoded.ids is None:
                self._documents[name] = self._documents[name]._replace(source=source)
                continue
            if name in self._documents:
                gone.append(self._forget(name))
            if encoded and encoded.ids:
                tag = self._free.pop() if self._free else len(self._documents)
                self._documents[name] = Document(tag, encoded.content, len(encoded.ids), source)
                added[tag] = rows([whole(encoded.ids)], 0, [tag])
        gone += self._too_many()
        left = {document.tag for document in self._documents.values()}
        new = [one for tag, one in added.items() if tag in left]
        columns: list[npt.NDArray[Any]] = [np.concatenate(column) for column in zip(*new, strict=True)]
        table = self.snapshot.table.changed(gone, Rows(*columns) if new else None)
        sources = np.zeros(max(left, default=-1) + 1, dtype=np.int8)
        for document in self._documents.values():
            sources[document.tag] = document.source
        self.snapshot = Snapshot(table, sources, {name: document.tag for name, document in self._documents.items()})

    def _forget(self, name: str) -> int:
        tag = self._documents.pop(name).tag
        self._free.append(tag)
        return tag

    def _too_many(self) -> list[int]:
        """Leaves documents out until the others are few enough; returns their tags."""
        total = sum(document.tokens for document in self._documents.values())
        gone = []
        by_age = sorted(self._documents, key=lambda name: self._documents[name].source != Source.WORKSPACE)
        for name in by_age:
            if total <= self._max_tokens:
                break
            total -= self._documents[name].tokens
            gone.append(self._forget(name))
        return gone
