"""How long a prompt may be: no longer than can be read in time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

DIVISORS = (1, 2, 4, 8)
"""The longest prompt's parts: few, since each has a window of its own, and another one is read anew."""
SHORTEST = 64
READING_SHARE = 0.5
"""Of a request's budget; the rest is for writing."""
GROWTH = 0.6
"""A longer prompt than the last one must be readable in this part of the time allowed: else it would go back and forth."""
DOCUMENTS = 1024


class Windows:
    """The choice for each document, which stays while it can."""

    def __init__(self) -> None:
        self._last: OrderedDict[Hashable, int] = OrderedDict()

    def choose(
        self,
        document: Hashable,
        longest: int,
        reading_ms: float | None,
        build: Callable[[int], list[int]],
        ms_to_read: Callable[[list[int]], float],
    ) -> tuple[list[int], int]:
        """The longest prompt that is read in time, or the shortest there is, and its divisor.

        document: None is none that comes again. longest: tokens. reading_ms: the time there is; None: as much as the longest
        prompt takes. build: token limit → prompt.
        """
        if reading_ms is None:
            return build(longest), 1
        last = self._last.pop(document, DIVISORS[0])
        prompt, chosen = build(longest), 1
        for divisor in DIVISORS:
            if divisor > 1:
                if longest // divisor < SHORTEST:
                    break
                prompt, chosen = build(longest // divisor), divisor
            allowed = reading_ms * (GROWTH if divisor < last else 1)
            if ms_to_read(prompt) <= allowed:
                break
        if document is not None:
            self._last[document] = chosen
        while len(self._last) > DOCUMENTS:
            self._last.popitem(last=False)
        return prompt, chosen
