"""One name that a server answers to: the file behind it, the one before, and the adapters of workspaces."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from serving.models.loaded import Loaded
from serving.request import CompletionRequest
from serving.stamp import Stamp, stamp
from serving.workspace.roots import place_of

logger = logging.getLogger(__name__)

COUNTS = ("completed", "cancelled", "failed", "predicted_tokens")


class Opener(Protocol):
    """What makes an engine of a file: `serving.models.opening.Opening`."""

    def __call__(self, path: Path, adapter: Path | None = None, beside: Loaded | None = None) -> Loaded:
        """beside: of the same file, whose weights serve this one too. Raises UserError if it cannot be loaded."""


class ServedModel:
    """A model under a name. It is in memory plain, under some of its adapters, or not at all.

    `open`, `swap`, `roll_back`, `adapt` and `unload` change that and may take long: they are for the one thread of
    `serving.models.Models`. The rest is safe to use from every thread.
    """

    def __init__(
        self,
        loaded: Loaded,
        free: Callable[[Callable[[], object]], object],
        name: str | None = None,
        path: Path | None = None,
        opener: Opener | None = None,
    ) -> None:
        """Takes over what is loaded. free: has that one thread call what frees memory.

        name: by default the one that the model itself tells. path, opener: of its file, if it can be loaded again.
        """
        self.path = path
        self.adapters: dict[Path, Path] = {}
        """Workspace folder → the adapter file that is laid over the model there."""
        self.created = int(time.time())
        self._name = name
        self._free = free
        self._opener = opener
        self._stamp = stamp(path) if path else None
        self._before: tuple[Path, Stamp | None] | None = None
        self._failure: str | None = None
        self._broken: dict[Path | None, str] = {}
        self._loaded: dict[Path | None, Loaded] = {None: loaded}
        self._retired: list[Loaded] = []
        self._past: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._metadata: BundleMetadata = loaded.engine.model.metadata
        self._told: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What requests call it."""
        return self._name or self.metadata.name

    @property
    def metadata(self) -> BundleMetadata:
        """What its bundle says, or said before it was unloaded."""
        loaded = self._loaded.get(None)
        return loaded.engine.model.metadata if loaded else self._metadata

    def adapter_for(self, request: CompletionRequest) -> Path | None:
        """The adapter of the innermost of its workspaces that the request's document is in."""
        adapters = self.adapters
        place = place_of(request) if adapters else None
        around = [folder for folder in adapters if place and place.is_relative_to(folder)]
        return adapters[max(around, key=lambda folder: len(folder.parts))] if around else None

    def take(self, adapter: Path | None) -> Loaded | None:
        """What answers under an adapter, for one request; None if it must be opened first."""
        with self._lock:
            loaded = self._loaded.get(adapter)
            return loaded.take() if loaded else None

    def open(self, adapter: Path | None) -> None:
        """Loads what was unloaded, unless it is there or not wanted any more. Raises UserError if that cannot be."""
        if adapter in self._loaded or (adapter and adapter not in self.adapters.values()):
            return
        path, opener = self._file()
        now, first = stamp(path), not self._loaded
        try:
            self._put({adapter: opener(path, adapter, self._beside())})
        except UserError as error:
            self._broken[adapter] = f"{adapter or path} could not be loaded again: {error}"
            raise
        self._broken.pop(adapter, None)
        if first and now != self._stamp:
            logger.warning("%s has changed since it was unloaded; it is served as it is now", path)
            self._stamp = now

    def swap(self, path: Path) -> None:
        """Serves another file from now on; requests in flight finish with the one before, which is then freed.

        The new file is loaded beside the old one, under each of the adapters too, and has to write something. Raises UserError
        if it cannot: then nothing has changed.
        """
        old, opener = self._file()
        found = stamp(path)
        opened: dict[Path | None, Loaded] = {}
        try:
            opened[None] = opener(path)
            opened[None].engine.check()
            for adapter in dict.fromkeys(self.adapters.values()):
                try:
                    opened[adapter] = opener(path, adapter, opened[None])
                except UserError as error:
                    raise UserError(error.message, "take that adapter away before") from None
        except Exception as error:
            for one in opened.values():
                one.close()
            self._failure = f"{path} did not take the place of {old}: {error}"
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} can be loaded, but then fails: {error}", "export it again") from error
        self._before, self.path, self._stamp = (old, self._stamp), path, found
        self._put(opened)
        self._failure, self._broken = None, {}

    def roll_back(self) -> None:
        """Swaps back to the file before. Raises UserError if there is none, or if it is another by now."""
        if self._before is None:
            raise UserError(f"{self.name} has had no other file", "swap it first")
        path, as_it_was = self._before
        if stamp(path) != as_it_was:
            raise UserError(f"{path} has changed since it was served", "name the file to swap to")
        self.swap(path)

    def adapt(self, workspace: Path, adapter: Path | None) -> None:
        """Lays an adapter over the model for one workspace, or with None none; the one before is freed if nobody else has it.

        The file is read anew. Raises UserError if it does not fit the model: then nothing has changed.
        """
        path, opener = self._file()
        if adapter:
            opened = opener(path, adapter, self._beside())
            self._put({adapter: opened})
        kept = {folder: one for folder, one in self.adapters.items() if folder != workspace}
        self.adapters = kept | ({workspace: adapter} if adapter else {})
        laid = {None, *self.adapters.values()} - {adapter}
        self._broken = {one: reason for one, reason in self._broken.items() if one in laid}
        with self._lock:
            gone = self._out([one for one in self._loaded if one is not None and one not in self.adapters.values()])
        self._let_go(gone)

    def unload(self, idle_since: float | None = None) -> None:
        """Frees the memory, when requests in flight are done; the next request loads it again.

        idle_since: only of what nobody has used since then, a time of the monotonic clock. Raises UserError if it could not be
        loaded again.
        """
        self._file()
        with self._lock:  # nobody takes what is looked at
            idle = [
                adapter
                for adapter, one in self._loaded.items()
                if idle_since is None or (not one.users and one.last_used < idle_since)
            ]
            if None in idle:
                self._metadata, self._told = self.metadata, self._loaded[None].facts()
            gone = self._out(idle)
        self._let_go(gone)

    def loaded(self) -> list[Loaded]:
        """What is in memory and answers new requests."""
        with self._lock:
            return list(self._loaded.values())

    def problem(self) -> str | None:
        """What is wrong, though requests are taken; None if nothing is."""
        return next(filter(None, (one.engine.problem() for one in self.loaded())), next(iter(self._broken.values()), None))

    def counts(self) -> Counter[str]:
        """What became of its requests, by COUNTS, with those of engines that are gone."""
        with self._lock:
            return sum(map(counts_of, [*self._loaded.values(), *self._retired]), self._past)

    def facts(self) -> dict[str, Any]:
        """What health tells of it. Memory in bytes; weights are shared by what is loaded under adapters."""
        with self._lock:
            present, finishing = dict(self._loaded), sum(one.users for one in self._retired)
        memory = [one.engine.memory() for one in present.values()]
        return {
            "name": self.name,
            "path": self.path and str(self.path),
            "state": state_of(None in present),
            "adapters": [
                {"workspace": str(folder), "path": str(path), "state": state_of(path in present)}
                | (present[path].engine.facts() if path in present else {})
                for folder, path in self.adapters.items()
            ],
            "in_flight": sum(one.users for one in present.values()),
            "finishing": finishing,
            **(present[None].facts() if None in present else self._told),
            "memory": {
                "weights": max((one.weights for one in memory), default=0),
                "contexts": sum(one.contexts for one in memory),
            },
            "previous": self._before and str(self._before[0]),
            "failure": self._failure,
        }

    def close(self) -> None:
        """Gives up all work and frees the memory."""
        with self._lock:
            every = [*self._loaded.values(), *self._retired]
            self._loaded, self._retired = {}, []
        for one in every:
            one.close()

    def _file(self) -> tuple[Path, Opener]:
        if self.path is None or self._opener is None:
            raise UserError(f"{self.name} is not a file of this server", "change it where it is served")
        return self.path, self._opener

    def _beside(self) -> Loaded | None:
        """Any of those whose weights are in memory."""
        return next(iter(self._loaded.values()), None)

    def _put(self, opened: dict[Path | None, Loaded]) -> None:
        """Has them answer from now on, in the place of those that did."""
        with self._lock:
            gone = self._out([adapter for adapter in opened if adapter in self._loaded])
            self._loaded |= opened
        self._let_go(gone)

    def _out(self, adapters: Iterable[Path | None]) -> list[Loaded]:
        """Takes them out; the lock is held."""
        gone = [self._loaded.pop(adapter) for adapter in adapters]
        self._retired += gone
        return gone

    def _let_go(self, gone: list[Loaded]) -> None:
        for one in gone:
            one.retire(partial(self._free, partial(self._close, one)))

    def _close(self, one: Loaded) -> None:
        with self._lock:
            if one not in self._retired:  # the server ends, and has closed it
                return
        one.close()
        with self._lock:
            self._retired.remove(one)
            self._past += counts_of(one)


def state_of(loaded: bool) -> str:
    return "loaded" if loaded else "unloaded"


def counts_of(loaded: Loaded) -> Counter[str]:
    """Of one engine, by COUNTS."""
    return Counter({name: getattr(loaded.engine, name) for name in COUNTS})
