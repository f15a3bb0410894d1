"""The engine: one thread owns the model and completes requests in the order they came."""

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import lru_cache

from serving import prompt
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest, StopReason, Timings
from serving.sampling import Sampler
from serving.stop import GrowingText, StopRules

logger = logging.getLogger(__name__)

OnText = Callable[[str], None]


class CancelledError(Exception):
    """The request was cancelled, or a newer one of the same client for the same document took its place."""


class Job:
    """A submitted request: its future, and the way to give it up.

    The future holds a Completion, or raises CancelledError, or whatever went wrong in the model.
    """

    def __init__(self, request: CompletionRequest, on_text: OnText | None) -> None:
        self.request = request
        self.future: Future[Completion] = Future()
        self.submitted = time.monotonic()
        self._on_text = on_text
        self._streamed = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the work soon; the future raises CancelledError at once. Does nothing to a finished job."""
        self._cancelled.set()
        with contextlib.suppress(InvalidStateError):  # it was finished in this very moment
            self.future.set_exception(CancelledError())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def finish(self, result: Completion | Exception) -> None:
        """Resolves the future, unless cancel() has."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

    def check(self) -> bool:
        """Whether time is over. Raises CancelledError."""
        if self.cancelled:
            raise CancelledError
        budget = self.request.budget_ms
        return budget is not None and milliseconds(self.submitted, time.monotonic()) >= budget

    def stream(self, settled: str) -> None:
        """Hands on what is new of the text that will stay."""
        if self._on_text and len(settled) > self._streamed:
            self._on_text(settled[self._streamed :])
            self._streamed = len(settled)


class Engine:
    """Completes requests one after the other. Safe to use from every thread."""

    def __init__(self, model: LlamaCpp) -> None:
        """Takes the model over: close() closes it. `completed` and `cancelled` count what became of the requests."""
        self.model = model
        # from one keystroke to the next nearly all lines and the suffix are the same
        self._encode = lru_cache(maxsize=512)(model.encode)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._newest: dict[tuple[str, str], Job] = {}
        self._lock = threading.RLock()
        self._running: Job | None = None
        self.completed = 0
        self.cancelled = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: CompletionRequest, on_text: OnText | None = None) -> Job:
        """Queues a request. on_text: called from the engine's thread with each new piece of the text."""
        job = Job(request, on_text)
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if request.client is not None and request.document is not None:
                key = (request.client, request.document)
                if older := self._newest.get(key):
                    older.cancel()
                self._newest[key] = job
                job.future.add_done_callback(lambda _: self._leave(key, job))
            self._queue.put(job)
        return job

    def close(self) -> None:
        """Gives up all work, ends the thread and frees the model."""
        with self._lock:
            self._closed = True
            if self._running:
                self._running.cancel()
        self._queue.put(None)
        self._thread.join()
        self.model.close()

    def _leave(self, key: tuple[str, str], job: Job) -> None:
        with self._lock:
            if self._newest.get(key) is job:
                del self._newest[key]

    def _work(self) -> None:
        while job := self._queue.get():
            with self._lock:
                self._running = job
                if self._closed:
                    job.cancel()
            try:
                job.finish(self._complete(job))
                self.completed += 1
            except CancelledError:
                job.cancel()
                self.cancelled += 1
            except Exception as error:
                logger.exception("a completion failed")
                self.model.forget()
                job.finish(error)
            finally:
                self._running = None

    def _complete(self, job: Job) -> Completion:
        """The completion of a request. Raises CancelledError."""
        request, model = job.request, self.model
        started = time.monotonic()
        job.check()
        max_tokens = min(request.max_tokens, model.context_length // 2)
        ids = prompt.build(
            model.fim,
            model.metadata.fim_order,
            self._encode,
            request.prefix,
            request.suffix,
            model.context_length - max_tokens,
        )
        cached = model.reuse(ids)
        late = self._read(job, ids, cached)
        read = time.monotonic()

        text = GrowingText(StopRules.of(request))
        sampler = Sampler(request.temperature, request.top_p, request.seed)
        logprobs: list[tuple[int, float]] = []  # where in the text the token begins, and its log-probability
        reason = StopReason.DEADLINE if late else None
        while reason is None:
            if len(logprobs) >= max_tokens:
                reason = StopReason.LENGTH
                break
            token, logprob = sampler.pick(model.logits())
            logprobs.append((len(text.text), logprob))
            reason = StopReason.EOS if model.is_special(token) else text.append(model.piece(token))
            if reason is None:
                job.stream(text.settled)
                model.read([token])
                reason = StopReason.DEADLINE if job.check() else None
        if reason in (StopReason.LENGTH, StopReason.DEADLINE):
            text.cut_off()
        job.stream(text.text)
        ended = time.monotonic()
        return Completion(
            id=f"cmpl-{uuid.uuid4().hex}",
            text=text.text,
            stop_reason=reason,
            logprobs=tuple(logprob for start, logprob in logprobs if start < len(text.text)),
            timings=Timings(
                prompt_tokens=len(ids),
                cached_tokens=cached,
                predicted_tokens=len(logprobs),
                queue_ms=milliseconds(job.submitted, started),
                prompt_ms=milliseconds(started, read),
                predict_ms=milliseconds(read, ended),
                total_ms=milliseconds(job.submitted, ended),
            ),
        )

    def _read(self, job: Job, ids: list[int], cached: int) -> bool:
        """Reads the prompt from `cached` on; True if time was over before the end."""
        for start in range(cached, len(ids), self.model.chunk):
            if job.check():
                return True
            self.model.read(ids[start : start + self.model.chunk])
        return job.check()


def milliseconds(start: float, end: float) -> float:
    """Milliseconds between two times of the monotonic clock."""
    return round((end - start) * 1000, 3)
