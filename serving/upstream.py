"""Completions of an engine behind a URL, for teams that outgrow one machine: the same surface as the engine's own.

One thread with an event loop speaks to it. Where the engine takes token ids, prompts are built here, by the same functions as
for a model on this machine; stop rules are always applied here, and a text that they end closes the stream, which makes the
engine stop. Which of several machines is asked is left to the balancer behind the URL: prompts that only grow suit those that
look at prefixes.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from codelm.errors import UserError
from codelm.fim import SPECIAL_TOKENS, FimTokens, Order
from serving import prompt
from serving.backend import Memory
from serving.job import CancelledError, Job, OnText, milliseconds, new_id
from serving.postprocess import postprocess
from serving.request import Completion, CompletionRequest, StopReason, Timings, UnavailableError
from serving.stop import GrowingText, StopRules
from serving.type_through import ShownSuggestions
from serving.upstream_wire import Api, Piece, WireError, call, read_event
from serving.vocabulary import CONTEXT, Vocabulary, bare_metadata

logger = logging.getLogger(__name__)

KEY = "CODELM_UPSTREAM_KEY"
"""Environment variable with a bearer token."""
CONNECT_SECONDS, SILENCE_SECONDS = 2.0, 30.0
"""How long a connection may take, and how long a stream may say nothing."""
FAILURES = 3
"""In a row, after which the upstream counts as down: requests are refused at once."""
SILENT_BUDGETS = 10
"""Requests in a row whose whole budget went by without a word, after which it counts as down too."""
BACKOFF_SECONDS = (0.5, 30.0)
"""Between attempts to find it up again: doubled from the first to the last."""
CHARS_PER_TOKEN = 3
"""Of a prompt that is sent as text, since nothing here can count its tokens."""
MARKS = FimTokens(*range(-1, -1 - len(SPECIAL_TOKENS), -1))
"""Special tokens in a prompt whose other "ids" are characters."""


@dataclass
class Known:
    """What stands for a loaded model: see `serving.completer.Model`."""

    vocabulary: Vocabulary | None
    metadata: Any


@dataclass(frozen=True)
class Target:
    """What was found behind the URL."""

    api: Api
    model: str | None
    context: int


class Upstream:
    """Completes requests elsewhere. Safe to use from every thread; see `serving.completer.Completer`."""

    def __init__(self, url: str, vocabulary: Vocabulary | None = None) -> None:
        """url: of a llama-server, a vLLM or another engine with OpenAI's completions, without the path. vocabulary: of its
        model; without one the engine's own parsing of special tokens is relied on.

        An upstream that is down is no error: it is looked for until it is there. Raises UserError if the URL is none.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UserError(f"{url} is not a URL", "give one such as http://127.0.0.1:8080")
        self.model = Known(vocabulary, vocabulary.metadata if vocabulary else bare_metadata(parsed.host))
        self.suggestions = ShownSuggestions()
        self.completed = self.cancelled = self.failed = self.predicted_tokens = 0
        self.reason: str | None = "not reached yet"
        """Why it counts as down; None while it is up."""
        self._target: Target | None = None
        self._failures = 0
        self._silent = 0
        self._backoff = BACKOFF_SECONDS[0]
        self._newest: dict[tuple[str, str], Job] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def submit(self, request: CompletionRequest, on_text: OnText | None = None) -> Job:
        """Sends a request on. on_text: called from the upstream's thread with each new piece of the text.

        The job's future raises UnavailableError if the upstream is down, hangs or says nonsense.
        """
        job = Job(request, on_text)
        with self._lock:
            if self._closed:
                raise RuntimeError("the upstream is closed")
            older = None
            if request.client is not None and request.document is not None:
                key = (request.client, request.document)
                older, self._newest[key] = self._newest.get(key), job
                job.future.add_done_callback(lambda _: self._leave(key, job))
        if older:
            older.cancel()
        if found := self.suggestions.find(request):
            self.completed += 1
            job.stream(found.text)
            job.finish(found)
        else:
            self._loop.call_soon_threadsafe(self._begin, job)
        return job

    def warm(self, request: CompletionRequest) -> None:
        """Does nothing: what is read ahead is the upstream's business."""

    def accepted(self, id_: str) -> None:
        """Does nothing, as `warm`."""

    def check(self) -> None:
        """Does nothing: whether it is up is looked for all the time."""

    def memory(self) -> Memory:
        """None on this machine that is worth counting."""
        return Memory(0, 0)

    def problem(self) -> str | None:
        """Why it is down, if it is."""
        return self.reason and f"the upstream is down: {self.reason}"

    def facts(self) -> dict[str, Any]:
        """Where it is, and whether it is up, and if not, why."""
        api = self._target.api.value if self._target else None
        state = "down" if self.reason else "up"
        return {"upstream": {"url": self.url, "api": api, "state": state, "reason": self.reason}}

    def close(self) -> None:
        """Gives up all work and ends the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _leave(self, key: tuple[str, str], job: Job) -> None:
        with self._lock:
            if self._newest.get(key) is job:
                del self._newest[key]

    async def _start(self) -> None:
        # an upstream is this machine or one that the user names: a proxy from the environment is not meant for it
        key = os.environ.get(KEY)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
        )
        try:
            await self._find()
        except (httpx.HTTPError, WireError) as error:
            self._down(described(error))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def _begin(self, job: Job) -> None:
        task = self._spawn(self._run(job))
        # a job that is cancelled from outside closes its stream
        job.future.add_done_callback(lambda _: self._cancel(task))

    def _cancel(self, task: "asyncio.Task[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(task.cancel)

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, job: Job) -> None:
        try:
            completion = await self._complete(job)
            self.completed += 1
            job.finish(completion)
        except (asyncio.CancelledError, CancelledError):
            self.cancelled += 1
            job.cancel()
        except (httpx.HTTPError, WireError) as error:
            self.failed += 1
            self._failed(described(error))
            job.finish(UnavailableError(f"the upstream {self.url} failed: {described(error)}"))
        except UnavailableError as error:
            self.failed += 1
            job.finish(error)
        except Exception as error:
            logger.exception("a completion failed")
            self.failed += 1
            job.finish(error)

    async def _complete(self, job: Job) -> Completion:
        """The completion of a request. Raises CancelledError, UnavailableError, WireError and httpx.HTTPError."""
        target, request = self._target, job.request
        if target is None or self.reason:
            raise UnavailableError(f"the upstream {self.url} is down: {self.reason}")
        max_tokens = max(1, min(request.max_tokens, target.context // 2))
        ids = self._prompt(target, request, target.context - max_tokens)
        path, body = call(target.api, target.model, ids, request, max_tokens)
        text = GrowingText(StopRules.of(request))
        logprobs: list[tuple[int, float]] = []  # where in the text the token begins, and its log-probability
        counts = {"prompt_tokens": 0 if isinstance(ids, str) else len(ids), "cached_tokens": 0}
        predicted, reason, first = 0, None, None
        budget = None if request.budget_ms is None else job.submitted + request.budget_ms / 1000 - time.monotonic()
        try:
            async with asyncio.timeout(budget):
                async for piece in self._stream(target.api, path, body):
                    first = first or time.monotonic()
                    counts |= {name: count for name in counts if (count := getattr(piece, name)) is not None}
                    predicted += piece.tokens
                    self.predicted_tokens += piece.tokens
                    logprobs += [(len(text.text), one) for one in piece.logprobs]
                    reason = text.append(piece.text.encode("utf-8", "replace")) or reason or piece.reason
                    if reason:
                        if piece.reason is None:  # a rule of ours: the engine need write no more
                            break
                        continue  # the counts may follow
                    if request.max_lines is None:  # else what is left of it shows at its end
                        job.stream(text.settled)
        except TimeoutError:
            reason = StopReason.DEADLINE
        if reason is None:
            raise WireError("the stream ended before the text did")
        if reason in (StopReason.LENGTH, StopReason.DEADLINE):
            text.cut_off()
        processed = postprocess(text.text, request, reason)
        shown = processed.text
        job.stream(shown)
        if first:
            self._succeeded()
        else:
            self._unheard()
        ended = time.monotonic()
        first = first or ended
        return Completion(
            id=new_id(),
            text=shown,
            stop_reason=reason,
            logprobs=tuple(logprob for start, logprob in logprobs if start < len(shown)),
            hidden_by=processed.dropped_by,
            timings=Timings(
                prompt_tokens=counts["prompt_tokens"],
                cached_tokens=counts["cached_tokens"],
                predicted_tokens=predicted,
                queue_ms=0.0,
                prompt_ms=milliseconds(job.submitted, first),
                predict_ms=milliseconds(first, ended),
                total_ms=milliseconds(job.submitted, ended),
            ),
        )

    async def _stream(self, api: Api, path: str, body: dict[str, Any]) -> AsyncIterator[Piece]:
        """The events of a completion."""
        async with self._client.stream("POST", path, json=body) as response:
            if response.is_error:
                message = (await response.aread()).decode("utf-8", "replace")[:200]
                if response.status_code < 500:  # it is up, and does not like what it was asked
                    raise UnavailableError(f"the upstream {self.url} refused: {response.status_code} {message}")
                raise WireError(f"{response.status_code} {message}")
            async for line in response.aiter_lines():
                if piece := read_event(api, line):
                    yield piece

    def _prompt(self, target: Target, request: CompletionRequest, budget: int) -> Sequence[int] | str:
        """The prompt as ids; without a vocabulary as text; for engines that fill in themselves the text before the cursor."""
        if target.api is Api.OPENAI:
            return request.prefix
        if known := self.model.vocabulary:
            return prompt.build(known.fim, known.metadata.fim_order, known.encode, request.prefix, request.suffix, budget)
        # the engine parses special tokens in texts, so none of the user's own may be in there
        prefix = max((request.prefix.rpartition(token)[2] for token in SPECIAL_TOKENS), key=lambda one: -len(one))
        suffix = min((request.suffix.partition(token)[0] for token in SPECIAL_TOKENS), key=len)
        codes = prompt.build(
            MARKS, Order.SPM, lambda text: [ord(char) for char in text], prefix, suffix, budget * CHARS_PER_TOKEN
        )
        return "".join(chr(code) if code >= 0 else SPECIAL_TOKENS[-code - 1] for code in codes)

    async def _find(self) -> None:
        """Asks what is there. Raises httpx.HTTPError or WireError if nothing useful is."""
        response = await self._client.get("/v1/models")
        try:
            models = response.raise_for_status().json()
            entry = models["data"][0]
            owner, name = str(entry.get("owned_by", "")), str(entry["id"])
            # vLLM tells max_model_len, llama-server and codelm tell n_ctx
            context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise WireError("its /v1/models tells no model") from None
        api = {"llamacpp": Api.LLAMA_SERVER, "vllm": Api.VLLM}.get(owner, Api.OPENAI)
        known = self.model.vocabulary
        limits = [limit for limit in (context, known and known.metadata.context_length) if limit]
        self._target = Target(api, name, min(limits, default=CONTEXT))
        if known is None:
            self.model.metadata = bare_metadata(name, context=self._target.context)
        self._failures = 0
        self.reason = None

    def _succeeded(self) -> None:
        self._failures, self._silent, self._backoff = 0, 0, BACKOFF_SECONDS[0]

    def _unheard(self) -> None:
        self._silent += 1
        if self._silent >= SILENT_BUDGETS and not self.reason:
            self._silent = 0
            self._down(f"it said nothing within the budgets of {SILENT_BUDGETS} requests")

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES and not self.reason:
            self._down(reason)

    def _down(self, reason: str) -> None:
        logger.warning("the upstream %s is down: %s", self.url, reason)
        self.reason = reason
        self._spawn(self._recover())

    async def _recover(self) -> None:
        """Looks for the upstream until it is there; ever less often, until a completion succeeds."""
        while self.reason:
            await asyncio.sleep(self._backoff)
            self._backoff = min(BACKOFF_SECONDS[1], self._backoff * 2)
            try:
                await self._find()
                logger.warning("the upstream %s is up again", self.url)
            except (httpx.HTTPError, WireError) as error:
                self.reason = described(error)


def described(error: Exception) -> str:
    """What went wrong, in one line: httpx's timeouts have no text of their own, its status errors have two lines."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.request.url} answers {error.response.status_code}"
    return str(error) or type(error).__name__
