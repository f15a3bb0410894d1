"""One model in memory, which is freed when nobody uses it any more."""

import threading
import time
from collections.abc import Callable
from typing import Any

from serving.answers import Answers
from serving.completer import Completer


class Loaded:
    """An engine, and what is done to its completions. Safe to use from every thread."""

    def __init__(self, engine: Completer, answers: Answers) -> None:
        """Takes both over: close() closes them.

        users: requests in flight. last_used: of the monotonic clock, in seconds.
        """
        self.engine = engine
        self.answers = answers
        self.users = 0
        self.last_used = time.monotonic()
        self._free: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def take(self) -> "Loaded":
        """For one request: it stays open until release()."""
        with self._lock:
            self.users += 1
            self.last_used = time.monotonic()
        return self

    def release(self) -> None:
        """To be called once for each take()."""
        with self._lock:
            self.users -= 1
            self.last_used = time.monotonic()
            free = None if self.users else self._free
        if free:
            free()

    def retire(self, free: Callable[[], object]) -> None:
        """No request will take it any more. free: called once, when the last has released it, which may be now."""
        with self._lock:
            self._free = free
            at_once = not self.users
        if at_once:
            free()

    def facts(self) -> dict[str, Any]:
        """What health tells of it: gate, attribution, and what the engine knows besides."""
        return {**self.answers.health(), **self.engine.facts()}

    def close(self) -> None:
        """Gives up what it still works on and frees the memory."""
        self.answers.close()
        self.engine.close()
