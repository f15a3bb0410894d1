"""A submitted request, and the texts that are being written for it."""

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple

from codelm.healing import Healer
from serving.backend import Backend, Floats, Mixing
from serving.kv import KvSequence
from serving.postprocess import postprocess
from serving.request import Completion, CompletionRequest, StopReason, Timings
from serving.sampling import Sampler
from serving.speculation import Drafter
from serving.stop import GrowingText, StopRules

OnText = Callable[[str], None]

ENDED_BY_TOKEN = (StopReason.EOS, StopReason.LINE, StopReason.SCOPE, StopReason.STOP)
CANDIDATE_TEMPERATURE = 0.8
"""At least, for all candidates but the first."""


class Plan(NamedTuple):
    """What a job's candidates have in common.

    typed: bytes before the cursor that the prompt lacks, to be spelled again first. suffix: what the prompt was built of.
    divisor: of the longest prompt, see serving.window.
    """

    prompt: list[int]
    typed: bytes
    suffix: str
    divisor: int
    max_tokens: int
    mixing: Mixing | None


class CancelledError(Exception):
    """The request was cancelled, or a newer one of the same client for the same document took its place."""


class Job:
    """A submitted request: its future, and the way to give it up.

    The future holds a Completion, or raises CancelledError, or whatever went wrong in the model.
    background: it waits until nobody else does, and begins anew whenever it has given way. read_only: nothing is written.
    """

    def __init__(
        self, request: CompletionRequest, on_text: OnText | None = None, *, background: bool = False, read_only: bool = False
    ) -> None:
        self.request = request
        self.background = background
        self.read_only = read_only
        self.future: Future[Completion] = Future()
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.plan: Plan | None = None
        self.writings: list[Writing] = []
        self._on_text = on_text
        self._streamed = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the work soon; the future raises CancelledError at once. Does nothing to a finished job."""
        self._cancelled.set()
        self.finish(CancelledError())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def ms_left(self) -> float:
        """Of its budget, in milliseconds; infinite without one."""
        budget = self.request.budget_ms
        return math.inf if budget is None else budget - (time.monotonic() - self.submitted) * 1000

    @property
    def late(self) -> bool:
        """Whether time is over and nothing has been answered."""
        return self.ms_left <= 0 and not self.future.done()

    def finish(self, result: Completion | Exception) -> None:
        """Resolves the future, unless it is."""
        with contextlib.suppress(InvalidStateError):  # it was cancelled in this very moment
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

    def stream(self, settled: str) -> None:
        """Hands on what is new of the text that will stay."""
        if self._on_text and len(settled) > self._streamed:
            self._on_text(settled[self._streamed :])
            self._streamed = len(settled)

    def completion(self) -> Completion:
        """What has been written, the first candidate's text with the others beside it; nothing if nothing was begun."""
        first, *others = [one.completion() for one in self.writings] or [nothing_written(self)]
        texts = {first.text}
        different = []
        for other in others:
            if other.shown and other.text not in texts:
                texts.add(other.text)
                different.append(other)
        return Completion(**vars(first) | {"alternatives": tuple(different)}) if different else first


class Writing:
    """One candidate of a job: its prompt is being read, then its text written, a few tokens at a time."""

    def __init__(self, job: Job, plan: Plan, sampler: Sampler, drafters: dict[str, Drafter], healer: Healer | None) -> None:
        """drafters: what may guess at the next tokens, the first to be asked first; none unless the sampler is greedy.

        healer: spells what is typed; None only if the plan has nothing to spell.
        """
        self.job = job
        self.prompt_tokens = len(plan.prompt)
        self.context = list(plan.prompt)
        self._typed, self._healer = plan.typed, healer
        self.drafters = drafters
        self.sequence: KvSequence | None = None
        self.cached = 0
        self.reason: StopReason | None = None
        self.drafted = self.accepted = 0
        self.text = GrowingText(StopRules.of(job.request))
        self._sampler = sampler
        self._max_tokens = plan.max_tokens
        self._logprobs: list[tuple[int, float]] = []  # where in the text the token begins, and its log-probability
        self._read: float | None = None
        self._ended: float | None = None

    def begin(self, sequence: KvSequence) -> None:
        """Starts from what the sequence holds."""
        self.sequence = sequence
        self.cached = len(sequence.tokens)

    @property
    def unread(self) -> int:
        """Tokens of the prompt to read; 0 once the text is being written."""
        return max(0, self.prompt_tokens - len(self.sequence.tokens)) if self.sequence else self.prompt_tokens

    @property
    def written(self) -> int:
        """Tokens."""
        return len(self.context) - self.prompt_tokens

    @property
    def draft_limit(self) -> int:
        """How many tokens are worth drafting: after them there must be room for one more. 0 while what is typed is spelled."""
        return 0 if self._typed else max(0, self._max_tokens - self.written - 1)

    def prompt_was_read(self) -> None:
        """To be called once, before the first take()."""
        self._read = time.monotonic()
        if not self._max_tokens:
            self.end(StopReason.LENGTH)

    def take(self, scores: Floats, draft: Sequence[int], backend: Backend) -> tuple[int, bool]:
        """Writes the tokens that the scores choose: of the one after the context, and of those after each drafted one.

        scores: (1 + drafted, vocab). Returns how many drafted tokens were right, and whether the one after them was wrong.
        """
        right, wrong = 0, False
        for row, guess in zip(scores, [*draft, None], strict=True):
            token, piece, logprob = self._pick(row, backend)
            self._logprobs.append((len(self.text.text), logprob))
            self.context.append(token)
            right += token == guess
            wrong = guess is not None and token != guess
            reason = StopReason.EOS if backend.is_special(token) else self.text.append(piece)
            if reason is None and self.written >= self._max_tokens:
                reason = StopReason.LENGTH
            if reason is not None:
                self.end(reason)
            if reason is not None or token != guess:
                break
        self.drafted += len(draft)
        self.accepted += right
        return right, wrong

    def _pick(self, scores: Floats, backend: Backend) -> tuple[int, bytes, float]:
        """The next token, what it writes after the cursor, and its log-probability."""
        if not self._typed or self._healer is None:
            token, logprob = self._sampler.pick(scores, self.context)
            return token, backend.piece(token), logprob
        token, logprob = self._sampler.pick(scores, self.context, self._healer.allowed(self._typed))
        piece = self._healer.beyond(self._typed, token)
        self._typed = self._healer.consume(self._typed, token)
        return token, piece, logprob

    def end(self, reason: StopReason) -> None:
        """The text ends as it is."""
        self.reason = reason
        if reason in (StopReason.LENGTH, StopReason.DEADLINE):
            self.text.cut_off()
        self._ended = time.monotonic()

    def completion(self) -> Completion:
        """What was written, and how long it took."""
        ended = self._ended or time.monotonic()
        started = self.job.started or ended
        read = self._read or ended
        reason = self.reason or StopReason.DEADLINE
        processed = postprocess(self.text.text, self.job.request, reason)
        text = processed.text
        tokens = self.context[self.prompt_tokens :]
        kept = sum(start < len(text) for start, _ in self._logprobs)
        ended_by_token = reason in ENDED_BY_TOKEN and kept < len(self._logprobs)
        return Completion(
            id=new_id(),
            text=text,
            stop_reason=reason,
            tokens=tuple(tokens[:kept]),
            logprobs=tuple(logprob for _, logprob in self._logprobs[:kept]),
            hidden_by=processed.dropped_by,
            end_logprob=self._logprobs[kept][1] if ended_by_token else None,
            timings=Timings(
                prompt_tokens=self.prompt_tokens,
                cached_tokens=self.cached,
                drafted_tokens=self.drafted,
                accepted_tokens=self.accepted,
                predicted_tokens=len(self._logprobs),
                queue_ms=milliseconds(self.job.submitted, started),
                prompt_ms=milliseconds(started, read),
                predict_ms=milliseconds(read, ended),
                total_ms=milliseconds(self.job.submitted, ended),
            ),
        )


def nothing_written(job: Job) -> Completion:
    """The answer to a request whose time was over before its turn came."""
    waited = milliseconds(job.submitted, time.monotonic())
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=waited, prompt_ms=0.0, predict_ms=0.0, total_ms=waited)
    return Completion(id=new_id(), text="", stop_reason=StopReason.DEADLINE, logprobs=(), timings=timings)


def new_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"


def milliseconds(start: float, end: float) -> float:
    """Milliseconds between two times of the monotonic clock."""
    return round((end - start) * 1000, 3)
