"""The mixtures of all projects, within one bound of memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable

from serving.mixture.mixer import Mixer

MAX_PROJECTS = 32
"""Whose rows are kept."""
MAX_BYTES = 64 << 20
"""Of all of them."""
LEAST_BYTES = 1 << 20
"""That a project may have, whatever the others take."""


class Mixers:
    """A mixture for each project. Safe to use from every thread.

    The project that was asked about last may take what it needs; the others, by when they were asked about, what is left. One
    that loses room for it soon leaves out the files that have not changed for longest, until they change or it is begun anew.
    """

    def __init__(self, new: Callable[[Callable[[], object]], Mixer], max_bytes: int = MAX_BYTES) -> None:
        """new: makes a mixture, given its `on_change`. max_bytes: at least LEAST_BYTES for each of MAX_PROJECTS."""
        self._new = new
        self.max_bytes = max(max_bytes, MAX_PROJECTS * LEAST_BYTES)
        self._mixers: OrderedDict[Hashable, Mixer] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, project: Hashable, kept: Collection[Hashable] = ()) -> Mixer:
        """The mixture of a project. kept: fewer than MAX_PROJECTS projects, that do not make room for a new one."""
        too_many = None
        with self._lock:
            if project not in self._mixers:
                if len(self._mixers) >= MAX_PROJECTS:
                    too_many = next(one for one in self._mixers if one not in kept)
                self._mixers[project] = self._new(self._share)
            self._mixers.move_to_end(project)
            found = self._mixers[project]
        if too_many is not None:
            self.forget(too_many)
        self._share()
        return found

    def forget(self, project: Hashable) -> None:
        """Gives a project up, if it is known."""
        with self._lock:
            mixer = self._mixers.pop(project, None)
        if mixer:  # without the lock, which its thread may wait for
            mixer.close()

    def wait(self) -> None:
        """Returns when all updates and removals so far are done."""
        for mixer in self._all():
            mixer.wait()

    def facts(self) -> dict[str, int]:
        """How many projects there are, their tokens, what memory they take and may take."""
        mixers = self._all()
        return {
            "projects": len(mixers),
            "tokens": sum(mixer.tokens for mixer in mixers),
            "bytes": sum(mixer.nbytes for mixer in mixers),
            "max_bytes": self.max_bytes,
        }

    def close(self) -> None:
        """Ends the threads."""
        for project in list(self._mixers):
            self.forget(project)

    def _all(self) -> list[Mixer]:
        with self._lock:
            return list(self._mixers.values())

    def _share(self) -> None:
        """Tells each how much it may take. Called when a project is asked about and when one has changed, by its thread."""
        with self._lock:
            left = self.max_bytes
            for place, mixer in enumerate(reversed(self._mixers.values()), start=1):
                allowed = left - (len(self._mixers) - place) * LEAST_BYTES
                mixer.limit(allowed)
                left -= max(LEAST_BYTES, min(mixer.nbytes, allowed))
