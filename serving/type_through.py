"""What the user types along a shown suggestion is answered from memory, without the model."""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, replace

from serving.postprocess import postprocess
from serving.request import Completion, CompletionRequest, Timings, TriggerKind

DOCUMENTS = 256
SUGGESTIONS = 8
"""Remembered for each document and client."""
SENT_AWAY = 64
"""Of all documents and clients."""
REACH = 4096
"""Characters that are remembered on each side of the cursor: requests have whole files."""
AUTO_CLOSED = frozenset(")]}>\"'`")
"""What editors put after the cursor when its partner is typed."""
MOST_AUTO_CLOSED = 8
NO_WORK = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0.0, prompt_ms=0.0, predict_ms=0.0, total_ms=0.0)

Key = tuple[str | None, str]


@dataclass(frozen=True)
class Suggestion:
    """A completion, and the request that it was made for, of whose texts only what is near the cursor is kept.

    before, after: characters that they had.
    """

    request: CompletionRequest
    completion: Completion
    before: int
    after: int

    @classmethod
    def of(cls, request: CompletionRequest, completion: Completion) -> "Suggestion":
        """A completion of a request, as it is."""
        near = replace(request, prefix=request.prefix[-REACH:], suffix=request.suffix[:REACH], files=(), recent=())
        return cls(near, completion, len(request.prefix), len(request.suffix))

    def typed_by(self, request: CompletionRequest) -> str | None:
        """How much of the suggestion the user has typed since; None if they went another way."""
        if not 0 <= len(request.prefix) - self.before < len(self.completion.text):
            return None
        typed = request.prefix[self.before :]
        if not self.completion.text.startswith(typed) or self.added_to(request.suffix) is None:
            return None
        near = self.request.prefix
        return typed if request.prefix[self.before - len(near) : self.before] == near else None

    def added_to(self, suffix: str) -> str | None:
        """What an editor put before the text after the cursor when it closed what was typed; None if more has changed."""
        size, near = len(suffix) - self.after, self.request.suffix
        if not 0 <= size <= MOST_AUTO_CLOSED or not AUTO_CLOSED.issuperset(suffix[:size]):
            return None
        return suffix[:size] if suffix[size : size + len(near)] == near else None

    def answers(self, request: CompletionRequest) -> bool:
        """Whether the suggestion is what was asked for: as greedy, for the same caller, of as many lines, as surely right."""
        asked = self.request
        if request.candidates > 1 or request.precision != asked.precision:
            return False
        if request.temperature > 0 or asked.stop != request.stop or (asked.max_lines is None) != (request.max_lines is None):
            return False
        if request.trigger is TriggerKind.AUTOMATIC:
            return True
        return asked.trigger is TriggerKind.INVOKED and asked.max_lines == request.max_lines

    def rest(self, request: CompletionRequest, typed: str) -> Completion | None:
        """The completion without what is typed; None if nothing is left."""
        text = self.completion.text[len(typed) :]
        if self.added_to(request.suffix):  # the editor closed what the suggestion closes
            text = postprocess(text, request, self.completion.stop_reason).text
        if not text.strip():
            return None
        id_ = f"{self.completion.id}-{len(typed)}" if typed else self.completion.id
        return replace(self.completion, id=id_, text=text, timings=NO_WORK)


class ShownSuggestions:
    """The last suggestions of each document and client. Safe to use from every thread."""

    def __init__(self, documents: int = DOCUMENTS) -> None:
        """documents: how many to remember; the one that was asked for longest ago goes first."""
        self._documents = documents
        self._shown: OrderedDict[Key, deque[Suggestion]] = OrderedDict()
        self._sent_away: deque[Suggestion] = deque(maxlen=SENT_AWAY)
        self._lock = threading.Lock()

    def remember(self, request: CompletionRequest, completion: Completion) -> None:
        """Keeps a completion as it is shown, after all post-processing. A request without a document is forgotten."""
        if request.document is None or not completion.shown:
            return
        with self._lock:
            key = (request.client, request.document)
            self._shown.setdefault(key, deque(maxlen=SUGGESTIONS)).appendleft(Suggestion.of(request, completion))
            self._shown.move_to_end(key)
            while len(self._shown) > self._documents:
                self._shown.popitem(last=False)

    def find(self, request: CompletionRequest) -> Completion | None:
        """What is left of a suggestion that the user is typing, accepting piece by piece, or has come back to; else None.

        Its id is the suggestion's with the number of characters typed; its timings are all zero, its log-probabilities
        those of the whole. Work: the characters typed, and a comparison of what is near the cursor.
        """
        if request.document is None:
            return None
        with self._lock:
            shown = self._shown.get((request.client, request.document))
            if shown is None:
                return None
            self._shown.move_to_end((request.client, request.document))
            matches = [(one, typed) for one in shown if (typed := one.typed_by(request)) is not None]
        for suggestion, typed in matches:
            if suggestion.answers(request) and (rest := suggestion.rest(request, typed)):
                return rest
        return None

    def dismiss(self, id_: str) -> None:
        """Forgets a suggestion that the user sent away, by its id or that of a rest of it, but for that."""
        with self._lock:
            for shown in self._shown.values():
                for suggestion in [one for one in shown if belongs(id_, one.completion.id)]:
                    shown.remove(suggestion)
                    self._sent_away.appendleft(suggestion)

    def sent_away(self, request: CompletionRequest, text: str) -> bool:
        """Whether a text, or the beginning of it, is what the user sent away, at the same place or while typing along it.

        What the user asks for is never held to be.
        """
        if request.trigger is not TriggerKind.AUTOMATIC:
            return False
        whose = (request.client, request.document)
        with self._lock:
            others = [one for one in self._sent_away if (one.request.client, one.request.document) == whose]
        for one in others:
            if (typed := one.typed_by(request)) is not None:
                rest = one.completion.text[len(typed) :]
                if text.startswith(rest) or rest.startswith(text):
                    return True
        return False


def belongs(id_: str, whole: str) -> bool:
    """Whether an id is that of a suggestion, or of a rest of it."""
    return id_ == whole or (id_.startswith(whole + "-") and id_[len(whole) + 1 :].isdecimal())
