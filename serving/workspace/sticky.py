"""Chunks that stay where they are from one request to the next, so that the beginning of the prompt does not change."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from serving.workspace.chunks import Chunk
from serving.workspace.relevance import SMALL_BUDGET, TRIED, Encode, Fitted, Scored, fitted

DOCUMENTS = 256
JUMP = 24
"""Lines from where chunks were last chosen: further on, another part of the file is worked on."""
GAIN_AT_JUMP = 1.25
GAIN_NEARBY = 2.0
"""How many times the score of a chunk another must have to take its place: a change costs reading the prompt again from
there on, and at a jump most of it is read again anyway."""
MEMORY = 0.5
"""While the cursor stays near, a chunk counts at least so much of the score for which it was chosen."""


@dataclass(frozen=True)
class Slot:
    """A chunk in the prompt, the way it is shown, and the score for which it was chosen."""

    chunk: Chunk
    shown: Fitted
    score: float


@dataclass(frozen=True)
class Slots:
    """The chunks of a document in the order of the prompt, the cursor's line when it was last looked for others, and the one
    where they were chosen."""

    line: int
    anchor: int
    slots: tuple[Slot, ...] = ()


class StickyChunks:
    """The chunks that each document's prompts begin with.

    On one line of a document nothing changes. On another line near by, a far better chunk (GAIN_NEARBY) takes the last slot
    that it can, one at a time. After a jump, and in a document that is new, better chunks (GAIN_AT_JUMP) take the slots of
    the worst, and free room is filled; a new document begins with the chunks of the one before it, so that the prompts of
    both begin alike. New chunks stand behind those that stay. A chunk whose file is gone goes at once.
    """

    def __init__(self) -> None:
        self._documents: OrderedDict[Hashable, Slots] = OrderedDict()

    def choose(
        self,
        document: Hashable,
        line: int,
        rank: Callable[[], Sequence[Scored]],
        usable: Callable[[str], bool],
        budget: int,
        encode: Encode,
    ) -> tuple[Chunk, ...]:
        """The chunks for a prompt, in their order.

        line: of the cursor. rank: the chunks that matter, the best first; asked only where that can change something.
        usable: whether the file of a path is there, and not the document itself. budget: tokens, with the files' names.
        """
        known = self._documents.get(document)
        before = known or next(reversed(self._documents.values()), None) or Slots(line, line)
        slots = [slot for slot in before.slots if usable(slot.chunk.path)]
        jumped = known is None or not slots or abs(line - known.anchor) > JUMP
        if jumped or line != before.line:
            slots = changed(slots, rank(), jumped, budget, encode)
        while slots and sum(slot.shown.tokens for slot in slots) > budget:
            slots.pop()
        self._documents[document] = Slots(line, line if jumped else before.anchor, tuple(slots))
        self._documents.move_to_end(document)
        if len(self._documents) > DOCUMENTS:
            self._documents.popitem(last=False)
        return tuple(slot.shown.chunk for slot in slots)


def changed(before: Sequence[Slot], ranked: Sequence[Scored], jumped: bool, budget: int, encode: Encode) -> list[Slot]:
    """The slots after a look at what matters now."""
    slots = [slot for slot in before if not (jumped and outdated(slot, ranked))]
    worth = {slot: worth_now(slot, ranked, jumped) for slot in slots}
    new: list[Slot] = []
    for one in ranked[:TRIED]:
        if any(overlaps(one.chunk, slot.chunk) for slot in (*worth, *new)):  # what has lost its slot does not come back
            continue
        kept = list(slots)
        needed = 0.0
        while True:
            room = budget - sum(slot.shown.tokens for slot in (*kept, *new))
            version = fitted(one.chunk, room, encode, small=budget < SMALL_BUDGET)
            if version and (jumped or len(kept) < len(slots) or one.score > max(worth.values(), default=0)):
                slots = kept
                new.append(Slot(one.chunk, version, one.score))
                break
            weaker = [slot for slot in reversed(kept) if worth[slot] < one.score]
            if not weaker:
                break
            loser = min(weaker, key=worth.__getitem__) if jumped else weaker[0]
            # a chunk that needs the room of several has to be better than all of them together
            needed += worth[loser]
            kept.remove(loser)
            if needed >= one.score:
                break
        if new and not jumped:
            break
    return [*slots, *new]


def worth_now(slot: Slot, ranked: Sequence[Scored], jumped: bool) -> float:
    """The score that another chunk has to exceed to take a slot."""
    now = max((one.score for one in ranked if overlaps(one.chunk, slot.chunk)), default=0.0)
    return GAIN_AT_JUMP * now if jumped else GAIN_NEARBY * max(now, MEMORY * slot.score)


def outdated(slot: Slot, ranked: Sequence[Scored]) -> bool:
    """Whether the lines of a chunk have another text by now."""
    now = [one.chunk for one in ranked if overlaps(one.chunk, slot.chunk)]
    return bool(now) and slot.chunk not in now


def overlaps(one: Chunk, other: Chunk) -> bool:
    """Whether two chunks share lines of a file."""
    return one.path == other.path and one.start < other.end and other.start < one.end
