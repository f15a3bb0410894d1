"""Speculative decoding: guesses at the next tokens, which the model checks in one batch.

At temperature 0 the text is the same as without: of a guess only the beginning is kept that the model would have written
(Stern et al. 2018, arXiv 1811.03115; with a smaller model Leviathan et al. 2023, arXiv 2211.17192). What changes is the time,
and not always to the better: four tokens at once cost a CPU about two one by one.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from codelm.errors import UserError
from serving.backend import Backend, Memory, Slice
from serving.kv import KvCache
from serving.prompt import steps_over
from serving.speed import Speed

LONGEST = 8
"""Tokens of a draft."""
RETRY = 32
"""A drafter that does not pay is asked again once in so many times."""
MEMORY = 64.0
"""About how many drafted tokens an acceptance rate remembers."""


class Drafter(Protocol):
    """What guesses the tokens to come, such as serving.backend.Mixing."""

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may come after the context; none if there is no good guess."""


class Occurrences:
    """Tokens that only grow, and where they hold what a context ends with."""

    KEY = 2
    """Tokens that an occurrence is found by."""
    LONGEST_MATCH = 16
    OCCURRENCES = 8
    """The last ones, that are compared."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Each token is looked at once."""
        for token in tokens:
            if len(self.tokens) >= self.KEY:  # else nothing that is followed by it
                self._ends.setdefault(tuple(self.tokens[-self.KEY :]), []).append(len(self.tokens))
            self.tokens.append(token)

    def following(self, context: Sequence[int], limit: int) -> list[int]:
        """What followed the longest match, the latest of equals; none if not even KEY tokens are the same."""
        tokens = self.tokens
        best, longest = 0, 0
        for end in reversed(self._ends.get(tuple(context[-self.KEY :]), ())[-self.OCCURRENCES :]):
            length = self.KEY
            while length < min(end, self.LONGEST_MATCH, len(context)) and tokens[end - length - 1] == context[-length - 1]:
                length += 1
            if length > longest:
                best, longest = end, length
        return tokens[best : best + limit] if longest else []


class PromptLookup:
    """Guesses that what followed the longest like end of the context follows again (Saxena 2023, prompt lookup decoding).

    For one text that only grows.
    """

    def __init__(self) -> None:
        self._occurrences = Occurrences()

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """What followed before, in the context itself."""
        self._occurrences.extend(context[len(self._occurrences.tokens) :])
        return self._occurrences.following(context, limit)


class EarlierLookup:
    """Guesses that the model goes on as it did in a text that it wrote for the document before."""

    BORDER = -1

    def __init__(self, texts: Iterable[Sequence[int]]) -> None:
        self._texts: Iterable[Sequence[int]] | None = texts
        self._occurrences = Occurrences()

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """What followed in one of the texts."""
        for text in self._texts or ():
            self._occurrences.extend((*text, self.BORDER))
        self._texts = None
        draft = self._occurrences.following(context, limit)
        return draft[: draft.index(self.BORDER)] if self.BORDER in draft else draft


class EarlierTexts:
    """The last texts that were written for each document, also those that nobody took.

    Sent away, overtaken by the next keystroke or held back, they often come again a few characters later.
    """

    DOCUMENTS = 64
    TEXTS = 8
    """Of a document."""

    def __init__(self) -> None:
        self._texts: OrderedDict[Hashable, deque[tuple[int, ...]]] = OrderedDict()

    def note(self, document: Hashable, context: Sequence[int], written: int) -> None:
        """Keeps a text, with the tokens before it that it may be found by. context: ends with its `written` tokens."""
        texts = self._texts.setdefault(document, deque(maxlen=self.TEXTS))
        self._texts.move_to_end(document)
        text = tuple(context[-written - Occurrences.LONGEST_MATCH :])
        if text in texts:
            texts.remove(text)
        texts.append(text)
        if len(self._texts) > self.DOCUMENTS:
            self._texts.popitem(last=False)

    def of(self, document: Hashable) -> tuple[tuple[int, ...], ...]:
        """The texts of a document, the latest last."""
        return tuple(self._texts.get(document, ()))


class Later:
    """A drafter that is made when it is first asked."""

    def __init__(self, make: Callable[[], Drafter]) -> None:
        self._make = make
        self._drafter: Drafter | None = None

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """What the drafter says."""
        self._drafter = self._drafter or self._make()
        return self._drafter.draft(context, limit)


class DraftModel:
    """Guesses what a smaller model with the same tokens would write."""

    def __init__(self, backend: Backend, target: Backend) -> None:
        """Takes the backend over: close() closes it. Raises UserError if its tokens are not the target's."""
        if backend.metadata.tokenizer_sha256 != target.metadata.tokenizer_sha256:
            raise UserError(
                f"the draft {backend.metadata.name} has another tokenizer than {target.metadata.name}",
                "give a draft that was trained with the same tokenizer.json",
            )
        self._backend = backend
        self._kv = KvCache(backend)

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """Greedy. Reads first what it has not read of the context: all of it, the first time."""
        prompt = list(context[steps_over(len(context), self._backend.context_length - limit) :])
        sequence = self._kv.begin(None, prompt)
        if sequence is None:  # it is asked by one thread, and ends each sequence that it begins
            raise RuntimeError("no sequence of the draft model is free")
        drafted: list[int] = []
        try:
            unread = prompt[len(sequence.tokens) :]
            while len(drafted) < limit:
                for start in range(0, len(unread), self._backend.batch_tokens):
                    tokens = unread[start : start + self._backend.batch_tokens]
                    scores = self._backend.decode([Slice(sequence.id, tokens, (len(tokens) - 1,))])
                    self._kv.extend(sequence, tokens)
                drafted.append(int(np.argmax(scores[-1])))
                unread = drafted[-1:]
        except Exception:
            self._kv.forget(sequence)
            raise
        finally:
            self._kv.end(sequence)
        return drafted

    def memory(self) -> Memory:
        """What it takes."""
        return self._backend.memory()

    def close(self) -> None:
        """Frees the memory."""
        self._backend.close()


class Draft(NamedTuple):
    """A guess, and whose it is."""

    name: str
    tokens: list[int]


NOTHING = Draft("", [])


class Record:
    """What is known of a drafter: how often its tokens are right, and what they cost."""

    def __init__(self) -> None:
        # a little more right than wrong, until it is known
        self.right, self.wrong = 6.0, 4.0
        self.ms = 0.0
        self.pauses = 0

    @property
    def acceptance(self) -> float:
        """The share of its tokens that were right, of those whose predecessors were."""
        return self.right / (self.right + self.wrong)

    def checked(self, right: int, wrong: bool) -> None:
        """Takes in how many tokens of a draft were right, and whether the one after them was wrong."""
        self.right += right
        self.wrong += wrong
        fade = min(1.0, MEMORY / (self.right + self.wrong))
        self.right, self.wrong = self.right * fade, self.wrong * fade


class Speculation:
    """Decides whose guess to try and how much of it, by what it has brought so far."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self.records: dict[str, Record] = {}

    def draft(self, drafters: Mapping[str, Drafter], context: Sequence[int], limit: int, beside: int) -> Draft:
        """The first drafter's guess that is worth its time. limit: tokens to draft at most. beside: tokens of the batch."""
        for name, drafter in drafters.items():
            record = self.records.setdefault(name, Record())
            wanted = min(limit, self._worth(record, beside))
            if not wanted:
                record.pauses += 1
                if record.pauses % RETRY:
                    continue
                wanted = min(limit, 2)
            started = time.perf_counter()
            tokens = drafter.draft(context, wanted)
            ms = (time.perf_counter() - started) * 1000
            if tokens:
                record.ms += 0.1 * (ms / len(tokens) - record.ms)
                return Draft(name, tokens)
        return NOTHING

    def checked(self, draft: Draft, right: int, wrong: bool) -> None:
        """Takes in how many of its tokens were right, and whether the one after them was wrong."""
        if draft.tokens:
            self.records[draft.name].checked(right, wrong)

    def _worth(self, record: Record, beside: int) -> int:
        """How many drafted tokens make the most tokens a millisecond; 0 if none do better than none.

        Each is right with the same probability, if those before it are. beside: the other tokens in the batch.
        """
        most, best = (beside + 1) / self._speed.ms(beside + 1), 0
        expected, right = float(beside + 1), 1.0
        for count in range(1, LONGEST + 1):
            right *= record.acceptance
            expected += right
            gain = expected / (self._speed.ms(beside + 1 + count) + count * record.ms)
            if gain > most:
                most, best = gain, count
        return best
