"""What every protocol adapter asks of the engine, and what it gets back: nothing of a protocol."""

import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


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


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """The text around a cursor, and how much to write there.

    document, client: who asks for what; a newer request of the same two supersedes an older one.
    files: kept for prompts with project context; the prompt does not use them yet.
    budget_ms: milliseconds from submission to answer; None is no limit.
    max_lines: lines to write; None turns off the rules that look at lines, for callers with stop strings of their own.
    max_tokens: tokens to write, at most half of the model's context.
    temperature: 0 is greedy. seed: makes sampling repeatable.
    stop: texts that end the completion and are not part of it.
    """

    prefix: str
    suffix: str = ""
    document: str | None = None
    client: str | None = None
    language: str | None = None
    path: str | None = None
    files: tuple[SourceFile, ...] = ()
    trigger: TriggerKind = TriggerKind.INVOKED
    budget_ms: float | None = None
    max_lines: int | None = None
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Token counts and milliseconds of one completion.

    prompt_tokens: in the whole prompt; cached_tokens: of those, not read again. predicted_tokens: with the one that
    ended it. queue_ms: waiting for earlier requests; prompt_ms: tokenising and reading; predict_ms: writing.
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

    logprobs: natural logarithms of the model's probabilities of the text's tokens (before temperature).
    """

    id: str
    text: str
    stop_reason: StopReason
    logprobs: tuple[float, ...]
    timings: Timings
    attribution: tuple[dict[str, Any], ...] = field(default=())

    @property
    def confidence(self) -> float:
        """Geometric mean of the token probabilities, 0 to 1; 0 for an empty text."""
        return math.exp(math.fsum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0

    @property
    def shown(self) -> bool:
        """Whether there is something worth showing: more than white space."""
        return bool(self.text.strip())
