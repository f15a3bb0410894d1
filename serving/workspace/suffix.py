"""The text after the cursor, kept as it was while that does no harm: it stands before what is typed, and each change of it
would have all of the prompt read again.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

DOCUMENTS = 256
QUOTES = "\"'`"
CLOSERS = {"(": ")", "[": "]", "{": "}"} | {quote: quote for quote in QUOTES}


class Snapshot(NamedTuple):
    """What stood around a cursor when the text after it was that of the prompt for the last time."""

    prefix: str
    suffix: str


class SuffixSnapshots:
    """The suffixes to show, by document.

    An editor that closes brackets by itself changes the text after the cursor: `f(` becomes `f()`, with the cursor between
    the two, and typing over the bracket takes it away again. The snapshot stays while the text after the cursor is that of
    the snapshot, or that with nothing but closers in front, each for an opener that was typed since. It does no harm: the
    model sees an open bracket and no closing one and writes it, and what it writes of the true suffix is cut off afterwards.
    A deletion before the snapshot's cursor while there are such closers, or any other change of what follows the cursor,
    takes a new snapshot.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Snapshot] = OrderedDict()

    def of(self, document: Hashable, prefix: str, suffix: str) -> str:
        """The suffix for the prompt."""
        kept = self._kept.get(document)
        if kept is None or not only_closed(kept, prefix, suffix):
            kept = Snapshot(prefix, suffix)
        self._kept[document] = kept
        self._kept.move_to_end(document)
        if len(self._kept) > DOCUMENTS:
            self._kept.popitem(last=False)
        return kept.suffix


def only_closed(kept: Snapshot, prefix: str, suffix: str) -> bool:
    """Whether the suffix is the snapshot's behind closers that belong to what was typed since.

    Not each opener must have its own: fewer editors close quotes than brackets, and not all those in a string.
    """
    closers = suffix[: len(suffix) - len(kept.suffix)]
    if not closers or not suffix.endswith(kept.suffix) or not prefix.startswith(kept.prefix):
        return False
    possible = iter(closers_of(prefix[len(kept.prefix) :]))
    return all(closer in possible for closer in closers)


def closers_of(typed: str) -> str:
    """What closes the brackets and quotes that a text leaves open, the innermost first, those in an open string too."""
    open_: list[str] = []
    for character in typed:
        if character in QUOTES and character in open_:
            del open_[open_.index(character) :]
        elif character in CLOSERS:
            open_.append(character)
        elif open_ and CLOSERS[open_[-1]] == character:
            open_.pop()
    return "".join(CLOSERS[opener] for opener in reversed(open_))
