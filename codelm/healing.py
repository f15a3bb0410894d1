"""Token healing: a word that is half typed is read as the beginning of its token, not as a token of its own.

Typed text ends in the middle of a token more often than not: `retu` may be `ret` + `u`, where the model has hardly seen
anything but `return`. So the prompt's last tokens are taken back, and the first tokens written must spell their bytes
again: each begins with what is left of them, or is a beginning of it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

MOST_TOKENS = 4
"""To take back at most; few tokens are longer than as many of their own pieces."""


class Healer:
    """Which tokens spell a text again. Safe to use from every thread."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """pieces: each token's bytes, by its id; b"" for a special token, which is never allowed.

        Every byte must be a token by itself, as in every byte-level vocabulary, or a text might have no way on.
        """
        self._pieces = pieces
        # sorted, the tokens that begin alike stand together: a trie whose nodes are ranges
        self._ids = np.array(sorted((id_ for id_, piece in enumerate(pieces) if piece), key=pieces.__getitem__), dtype=np.int32)
        self._sorted = [pieces[id_] for id_ in self._ids]
        self.allowed = lru_cache(maxsize=1024)(self._allowed)

    def back_up(self, ids: Sequence[int]) -> tuple[list[int], bytes]:
        """The prompt without the tokens that may be the beginning of another one, and their bytes; b"" if there are none.

        Of the last MOST_TOKENS, as many as there are that together begin a longer token; but a blank before the cursor is
        always taken back, since the next word's token begins with it. Never a newline nor a special token.
        """
        kept, removed = len(ids), b""
        spelled = b""
        for at in range(len(ids) - 1, max(0, len(ids) - MOST_TOKENS) - 1, -1):
            piece = self._pieces[ids[at]]
            if not piece or b"\n" in piece:
                break
            spelled = piece + spelled
            if self.extends(spelled) or (at == len(ids) - 1 and piece.endswith((b" ", b"\t"))):
                kept, removed = at, spelled
        return list(ids[:kept]), removed

    def extends(self, text: bytes) -> bool:
        """Whether a token begins with the text and is longer."""
        start, end = self._range(text)
        return end > start and len(self._sorted[end - 1]) > len(text)

    def _allowed(self, remaining: bytes) -> Ids:
        """The ids of the tokens that begin with `remaining` or are a beginning of it, ascending.

        All of them, special ones besides, may come if nothing remains: call it only with something.
        """
        start, end = self._range(remaining)
        shorter = [self._range(remaining[:size], exact=True) for size in range(1, len(remaining))]
        found = np.concatenate([self._ids[start:end], *(self._ids[first:last] for first, last in shorter)])
        if not found.size:
            raise ValueError(f"no token spells {remaining!r}")
        found.sort()
        found.flags.writeable = False  # it is handed out again
        return found

    def consume(self, remaining: bytes, token: int) -> bytes:
        """What remains to be spelled after an allowed token; b"" once it spells all, and maybe more: `beyond`."""
        piece = self._pieces[token]
        if not piece or not (piece.startswith(remaining) or remaining.startswith(piece)):
            raise ValueError(f"token {token} does not spell {remaining!r}")
        return remaining[len(piece) :]

    def beyond(self, remaining: bytes, token: int) -> bytes:
        """What an allowed token writes after `remaining`: the completion's first bytes."""
        return self._pieces[token][len(remaining) :]

    def _range(self, text: bytes, *, exact: bool = False) -> tuple[int, int]:
        """Where the tokens that begin with a text stand in order; exact: that are the text."""
        start = bisect_left(self._sorted, text)
        after = text + b"\0" if exact else successor(text)
        return start, len(self._sorted) if after is None else bisect_left(self._sorted, after, start)


def successor(text: bytes) -> bytes | None:
    """The least text that is greater than all those that begin with this one; None if there is none."""
    head = text.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None
