"""How many threads compute a batch: all there may be, or half of them, whichever has been faster of late.

The threads of a matrix product wait for each other. On cores that nobody else uses twice as many make a token 1.5 times as
fast; if one of them has to share its core, all wait until the operating system gives it its turn, at each of hundreds of
products.
"""

import time
from collections.abc import Callable

LEARNED = 0.5
"""How far one batch moves what is known."""
OUTLIER = 2.5
"""No batch counts as more than so many times what was expected: a single hitch is to be forgotten by the next batch."""
RETRY_SECONDS, RARELY = 1.0, 16.0
"""After so long the slower number is tried again; twice as late each time that it is slower still, but not more rarely."""


class Threads:
    """The choice between two numbers of threads, for batches of each size (by powers of two)."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """most: threads. clock: seconds."""
        self.all, self.few = most, max(1, most // 2)
        self._clock = clock
        self._ms: dict[tuple[int, int], float] = {}
        self._pause = RETRY_SECONDS
        self._retry = clock() + self._pause

    def choose(self, tokens: int) -> int:
        """Threads for a batch of so many tokens."""
        faster = self._faster(tokens)
        if self.few == self.all or self._clock() < self._retry:
            return faster
        return self.few if faster == self.all else self.all

    def note(self, tokens: int, threads: int, ms: float) -> None:
        """Takes in how long a batch took with so many."""
        before = self._faster(tokens)
        key = (tokens.bit_length(), threads)
        known = self._ms.get(key, ms)
        self._ms[key] = known + LEARNED * (min(ms, OUTLIER * known) - known)
        if threads != before and self._clock() >= self._retry:
            self._pause = RETRY_SECONDS if self._faster(tokens) != before else min(2 * self._pause, RARELY)
            self._retry = self._clock() + self._pause

    def _faster(self, tokens: int) -> int:
        """The number that is faster, as far as is known; each is tried once."""
        size = tokens.bit_length()
        return min((self.all, self.few), key=lambda threads: self._ms.get((size, threads), 0.0))
