"""What every protocol adapter asks of the engine, and what it gets back: nothing of a protocol."""

import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

MAX_CANDIDATES = 5


class TriggerKind(IntEnum):
    """Who asked, by LSP 3.18's numbers."""

    INVOKED = 1
    AUTOMATIC = 2


class StopReason(StrEnum):
    """Why a completion ended where it does."""

    EOS = "eos"
    LINE = "line"
    SCOPE = "scope"
    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """Another file of the project, given as context."""

    path: str
    text: str


class RecentKind(StrEnum):
    """What somebody did in a file lately."""

    OPENED = "opened"
    EDITED = "edited"


@dataclass(frozen=True, kw_only=True)
class Recent:
    """A file, or some lines of one, that somebody opened or edited lately.

    first_line, last_line: from 0, the last one included; None is the whole file. text: of those lines; None: as it is in the
    workspace.
    """

    path: str
    kind: RecentKind
    first_line: int | None = None
    last_line: int | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """The text around a cursor, and how much to write there.

    model: the name of the one to ask; None leaves it to the server (`serving.models`).
    document, client: who asks for what; a newer request of the same two supersedes an older one.
    path: of the document, absolute where it is a file of this machine.
    files: other files of the project, as the editor has them. recent: what somebody looked at, the latest first.
    roots: absolute paths of the folders that the editor has open; none: the repository around the document.
    budget_ms: milliseconds from submission to answer; None is no limit.
    trigger: what nobody asked for, of a document and without a budget, does not wait until all of a new document is read.
    max_lines: lines to write; None turns off the rules that look at lines, for callers with stop strings of their own.
    max_tokens: tokens to write, at most half of the model's context.
    temperature: 0 is greedy. seed: makes sampling repeatable.
    stop: texts that end the completion and are not part of it.
    precision: the share of shown completions that should be right, 0 to 1; None is the server's own.
    candidates: texts to choose from, MAX_CANDIDATES at most; all but the first are sampled.
    """

    prefix: str
    suffix: str = ""
    document: str | None = None
    client: str | None = None
    language: str | None = None
    path: str | None = None
    files: tuple[SourceFile, ...] = ()
    recent: tuple[Recent, ...] = ()
    roots: tuple[str, ...] = ()
    trigger: TriggerKind = TriggerKind.INVOKED
    budget_ms: float | None = None
    max_lines: int | None = None
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    precision: float | None = None
    candidates: int = 1
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Token counts and milliseconds of one completion.

    prompt_tokens: in the whole prompt; cached_tokens: of those, not read again. drafted_tokens: guessed before the model
    was asked; accepted_tokens: of those, right. predicted_tokens: with the one that ended it. queue_ms: waiting for
    earlier requests; prompt_ms: tokenising and reading; predict_ms: writing.
    """

    prompt_tokens: int
    cached_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    predicted_tokens: int = 0
    queue_ms: float
    prompt_ms: float
    predict_ms: float
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The text to insert at the cursor, and what is known of it.

    tokens: the text's, the last of which may reach beyond its end. logprobs: natural logarithms of their probabilities
    (before temperature), as the model and what is mixed into it give them. end_logprob: the same of the token that ended it,
    where it was one. cache_weight: how much of the probabilities came from what is mixed in, on average, 0 to 1. None is
    unknown. alternatives: the other candidates, each of another text.
    right: the probability that it is what the user wants, where a gate tells it. hidden_by: what keeps it from being shown:
    "precision" (that is too little), "attribution", "dismissed", or the step of post-processing that left nothing of it.
    remembered: it is what is left of a completion that was shown before.
    """

    id: str
    text: str
    stop_reason: StopReason
    logprobs: tuple[float, ...]
    timings: Timings
    tokens: tuple[int, ...] = ()
    end_logprob: float | None = None
    cache_weight: float | None = None
    right: float | None = None
    hidden_by: str | None = None
    remembered: bool = False
    attribution: tuple[dict[str, Any], ...] = field(default=())
    alternatives: "tuple[Completion, ...]" = ()

    @property
    def confidence(self) -> float:
        """What the gate says, 0 to 1; without one the geometric mean of the token probabilities, 0 for an empty text."""
        if self.right is not None:
            return self.right
        return math.exp(math.fsum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0

    @property
    def shown(self) -> bool:
        """Whether there is something worth showing: more than white space, and likely right."""
        return bool(self.text.strip()) and not self.hidden_by


class UnavailableError(Exception):
    """What computes completions is not there now; the message says why."""
