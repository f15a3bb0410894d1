"""What the KV caches of a backend's sequences hold, and which of them a new prompt goes on from."""

from collections.abc import Hashable, Sequence

from serving.backend import Backend

WORTH_SHARING = 32
"""Tokens to save at least by a copy, which costs something on a CPU."""
LITTLE = 32
"""Tokens that are given up without a copy when another prompt goes on from what stands before them."""


class KvSequence:
    """One sequence: the tokens it holds, and whether somebody works on it. Changed by KvCache alone."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        self.tokens: list[int] = []
        self.key: Hashable = None
        self.busy = False
        self.used = 0


class KvCache:
    """All sequences. What was read stays until the room is needed: the least recently used goes first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sequences = [KvSequence(id_) for id_ in range(backend.sequences)]
        self._clock = 0

    def matched(self, prompt: Sequence[int]) -> int:
        """How many of the prompt's tokens need no reading, if it were begun now."""
        head = prompt[:-1]
        return max(common_prefix(one.tokens, head) for one in self._sequences)

    def begin(self, key: Hashable, prompt: Sequence[int]) -> KvSequence | None:
        """A sequence that holds the longest beginning of the prompt that any sequence has, and nothing else.

        Never all of it, since reading the last token gives the scores. It is busy until end(). None if all are busy.
        key: whose prompt it is, such as a document and what comes after the cursor. A sequence with the same key goes on,
        whatever it loses by that; one with another key is left alone, and copied from if that is worth it. None is nobody's.
        """
        head = prompt[:-1]
        reach = {one: common_prefix(one.tokens, head) for one in self._sequences}
        idle = [one for one in self._sequences if not one.busy]
        if not idle:
            return None
        source = max(reach, key=lambda one: (reach[one], not one.busy, one.used))
        own = max((one for one in idle if key is not None and one.key == key), key=lambda one: reach[one], default=None)
        if own and reach[own] + WORTH_SHARING > reach[source]:
            target = own
        elif not source.busy and source.key is None and len(source.tokens) - reach[source] <= LITTLE:
            target = source
        else:
            target = own or min((one for one in idle if one is not source), key=lambda one: one.used, default=source)
        if target is not source and reach[target] + WORTH_SHARING <= reach[source]:
            self._backend.share(source.id, target.id, reach[source])
            target.tokens = source.tokens[: reach[source]]
        else:
            self.cut(target, reach[target])
        target.key, target.busy = key, True
        return target

    def extend(self, sequence: KvSequence, tokens: Sequence[int]) -> None:
        """Notes what the backend has appended."""
        sequence.tokens.extend(tokens)

    def cut(self, sequence: KvSequence, length: int) -> None:
        """Leaves the first `length` tokens."""
        if length < len(sequence.tokens):
            self._backend.keep(sequence.id, length)
            del sequence.tokens[length:]

    def end(self, sequence: KvSequence, *, whole: bool = True) -> None:
        """Nobody works on the sequence any more; it stays for what comes later. One that is not whole makes room first."""
        self._clock += 1
        sequence.busy, sequence.used = False, self._clock if whole else 0

    def expire(self, key: Hashable) -> None:
        """What has that key will not be gone on from: it makes room first."""
        for one in self._sequences:
            if one.key == key and not one.busy:
                one.key, one.used = None, 0

    def forget(self, sequence: KvSequence) -> None:
        """Empties a sequence whose content is not known."""
        sequence.tokens, sequence.key, sequence.used = [], None, 0
        self._backend.keep(sequence.id, 0)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first elements of two lists are the same: by halves, since a comparison of lists is one call."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
