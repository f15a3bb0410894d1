"""The scheduler: one thread that owns the backend and brings all live requests on, a batch at a time."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from codelm.healing import Healer
from serving import prompt
from serving.backend import Backend, Floats, Interrupt, InterruptedBatchError, Mixer, Slice
from serving.fairness import Clients, FairQueue, shares
from serving.job import CANDIDATE_TEMPERATURE, Job, Plan, Writing
from serving.kv import KvCache
from serving.request import CompletionRequest, StopReason, TriggerKind
from serving.sampling import Sampler
from serving.speculation import (
    NOTHING,
    Draft,
    Drafter,
    DraftModel,
    EarlierLookup,
    EarlierTexts,
    Later,
    PromptLookup,
    Speculation,
)
from serving.speed import Speed
from serving.window import DIVISORS, READING_SHARE, Windows
from serving.workspace.context import Contexts

logger = logging.getLogger(__name__)

BATCH_MS = 25.0
"""Of prompts: a new job shall not wait longer, and what has been cancelled shall not take longer."""
BATCH_MS_ALONE = 100.0
"""The same while there is one client: larger batches are read faster."""
ALONE_SECONDS = 10.0
"""Since another one has asked."""
BATCH_MS_BESIDE_WRITING = 10.0
"""While somebody's text is being written, which goes on by a token a batch."""
LEAST_TOKENS = 16
"""Of prompts, in any batch, however slow the model."""
READING_MS, READING_PART = 25.0, 4
"""For the prompt of a request without a budget that nobody asked for: what of it cannot be read in that time is read ahead, for
the next one; but one part in so many of the longest prompt is read always."""
SHORT = 16
"""Tokens that nearly all completions are shorter than."""
MOST_IN_BACKGROUND = 64
"""Jobs that wait there before those that were given up are looked for."""
STALLED_SECONDS = 10.0


class Part(NamedTuple):
    """A writing's share of a batch."""

    writing: Writing
    slice: Slice
    draft: Draft


class Scheduler:
    """Continuous batching: texts being written first, a token and a draft each, then prompts in chunks, fairly."""

    def __init__(
        self,
        backend: Backend,
        parallel: int,
        contexts: Contexts,
        draft_model: DraftModel | None = None,
        mixer: Mixer | None = None,
        mixes: bool = True,
        healing: bool = True,
        speculation: bool = True,
        on_shortened: Callable[[CompletionRequest], object] = lambda request: None,
    ) -> None:
        """parallel: texts to work on at once. contexts: of the requests; close() leaves them open. mixes: whether the mixer
        changes the model's probabilities; if not, it drafts only. healing: whether a word that is half typed is read as the
        beginning of its token. speculation: whether anything is drafted. on_shortened: called when there was no time for the
        longest prompt.
        """
        self._backend = backend
        self._parallel = max(1, min(parallel, backend.sequences, backend.batch_outputs // 2))
        self._draft_model = draft_model
        self._contexts = contexts
        self._mixer, self._mixes = mixer, mixes
        pieces = [b"" if backend.is_special(token) else backend.piece(token) for token in range(backend.vocab_size)]
        self._healer = Healer(pieces) if healing else None
        self.predicted = 0
        self._speculates = speculation
        self._on_shortened = on_shortened
        # from one keystroke to the next nearly all lines and the suffix are the same
        self._encode = lru_cache(maxsize=512)(backend.encode)
        self.speed = Speed.measure(backend)
        self.speculation = Speculation(self.speed)
        self._kv = KvCache(backend)
        self._earlier = EarlierTexts()
        self._windows = Windows()
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._clients = Clients()
        self._waiting = FairQueue()
        self._background = FairQueue()
        self._live: list[Writing] = []
        self._failure: str | None = None
        self._decoding_since: float | None = None
        self._interrupt = Interrupt()
        self._decoding: tuple[Job, ...] = ()
        self._gives_way = False
        self._arriving = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Hands a job over. From any thread."""

        job.future.add_done_callback(self._ended)
        with self._arriving:
            self._inbox.put(job)
            if self._gives_way and not job.background:
                self._interrupt.set()

    def _ended(self, _: object) -> None:
        """A job has ended: if nobody waits for a long batch any more, it ends too."""
        if (jobs := self._decoding) and all(job.future.done() for job in jobs):
            self._interrupt.set()

    def close(self) -> None:
        """Gives up all work and ends the thread. The backend stays open."""
        with self._arriving:
            self._inbox.put(None)
            self._interrupt.set()
        self._thread.join()

    def problem(self) -> str | None:
        """What is wrong just now. From any thread."""
        since = self._decoding_since
        if since is not None and (seconds := time.monotonic() - since) > STALLED_SECONDS:
            return f"the model has not answered for {seconds:.0f} s"
        return self._failure and f"the model failed: {self._failure}"

    def _run(self) -> None:
        while self._open:
            self._receive()
            try:
                self._drop()
                self._admit()
                if parts := self._compose():
                    self._work(parts)
            except Exception:  # of no one job: there is no saying what it left behind
                logger.exception("the scheduler failed")
                for writing in list(self._live):
                    if writing.sequence:
                        writing.sequence.tokens.clear()  # what it holds is not known; begin() empties it
                    self._fail(writing.job, RuntimeError("the scheduler failed; the server's log has more"))

    def _receive(self) -> None:
        """Takes in new jobs; waits for one if there is nothing to do. When closed, gives up all jobs."""
        if not (self._live or len(self._waiting) or len(self._background)):
            self._take_in(self._inbox.get())
        while not self._inbox.empty():
            self._take_in(self._inbox.get())
        if not self._open:
            for writing in list(self._live):
                writing.job.cancel()
                self._leave(writing)
            for waiting in (self._waiting, self._background):
                while job := waiting.take():
                    job.cancel()

    def _take_in(self, job: Job | None) -> None:
        if job is None:
            self._open = False
        elif job.background:
            self._background.put(job)
        else:
            self._waiting.put(job)
            self._clients.note(job.request.client)

    def _drop(self) -> None:
        """Ends what nobody waits for any more, and what is to be answered now."""
        for writing in list(self._live):
            if writing.job.future.done():
                self._leave(writing)
        if len(self._background) > MOST_IN_BACKGROUND:  # whoever types on gives up what was to be read ahead
            self._background.drop_done()
        for job in [*(writing.job for writing in self._live), *self._waiting]:
            if job.late:
                for writing in self._live_of(job):
                    writing.end(StopReason.DEADLINE)
                    self._leave(writing)
                self._finish(job)

    def _admit(self) -> None:
        """Begins what there is room for. What runs in the background gives way at once, keeping what it has read."""
        if len(self._waiting):
            for writing in [one for one in self._live if one.job.background]:
                self._leave(writing)
                writing.job.writings.clear()
                self._background.put(writing.job)
        while self._has_room() and (job := self._waiting.take()):
            self._begin(job)
        if not self._live and (job := self._background.take()):
            self._begin(job)

    def _has_room(self) -> bool:
        """Whether one more text may be begun.

        Where several take as long together as one after the other, each is ready sooner one after the other. Those that take
        long, for their prompt or for themselves, do not hold up the others.
        """
        if len(self._live) >= self._parallel:
            return False
        at_once = self.speed.tokens_within(BATCH_MS)
        return self._backend.together or all(one.unread > at_once or one.written >= SHORT for one in self._live)

    def _begin(self, job: Job) -> None:
        """Begins a job's next candidate."""
        try:
            if job.plan is None:
                job.started = time.monotonic()
                job.plan = self._plan(job)
            if job.future.done():
                return
            plan = job.plan
            request, number = job.request, len(job.writings)
            temperature = max(request.temperature, CANDIDATE_TEMPERATURE) if number else request.temperature
            seed = None if request.seed is None else request.seed + number
            sampler = Sampler(temperature, request.top_p, seed, plan.mixing)
            drafters = {} if temperature > 0 else self._drafters(request, plan)
            writing = Writing(job, plan, sampler, drafters, self._healer)
            # a prompt of another length has another window; candidates beside the first are not gone on from
            document = request.document
            key = (document, plan.suffix, plan.divisor) if document is not None and not number else None
            sequence = self._kv.begin(key, plan.prompt)
        except Exception as error:
            logger.exception("a request could not be begun")
            self._fail(job, error)
            return
        assert sequence is not None, "there are no fewer sequences than live texts"
        writing.begin(sequence)
        job.writings.append(writing)
        self._live.append(writing)

    def _plan(self, job: Job) -> Plan:
        request, backend = job.request, self._backend
        max_tokens = min(request.max_tokens, backend.context_length // 2)

        longest = backend.context_length - max_tokens
        context = self._contexts.of(request, self._encode, longest)

        def build(limit: int) -> list[int]:
            order, repository = backend.metadata.fim_order, context.repository
            return prompt.build(backend.fim, order, self._encode, request.prefix, context.suffix, limit, repository)

        def ms_to_read(ids: list[int]) -> float:
            return (len(ids) - self._kv.matched(ids)) / self.speed.prefill

        key = request.document and (request.client, request.document)
        ids, divisor = self._windows.choose(key, longest, self._reading_ms(job, longest), build, ms_to_read)
        # read ahead, the prompt is to be gone on from, whatever is typed next
        ids, typed = self._healer.back_up(ids) if self._healer and not job.read_only else (ids, b"")
        mixing = self._mixer.begin(request, ids) if self._mixer and self._mixes else None
        return Plan(ids, typed, context.suffix, divisor, 0 if job.read_only else max_tokens, mixing)

    def _reading_ms(self, job: Job, longest: int) -> float | None:
        """How long a job's prompt may take to be read, which has `longest` tokens at most; None: as long as it takes."""
        request = job.request
        if job.background:
            return None
        if request.budget_ms is not None:
            return request.budget_ms * READING_SHARE
        if request.trigger is not TriggerKind.AUTOMATIC or request.document is None:
            return None  # of what does not come again nothing is gained by a longer prompt that is read later
        return max(READING_MS, longest / READING_PART / self.speed.prefill)

    def _drafters(self, request: CompletionRequest, plan: Plan) -> dict[str, Drafter]:
        """In the order in which they are asked: what is right most often, or costs least, first."""
        drafters: dict[str, Drafter] = {}
        if not self._speculates:
            return drafters
        if plan.mixing:
            drafters["mixture"] = plan.mixing
        if earlier := self._earlier.of((request.client, request.document)):
            drafters["earlier"] = EarlierLookup(earlier)
        drafters["lookup"] = PromptLookup()
        if (mixer := self._mixer) and not self._mixes:  # what the prompt has no room for: the whole file and its neighbours
            drafters["mixture"] = Later(lambda: mixer.begin(request, plan.prompt))
        if self._draft_model:
            drafters["model"] = self._draft_model
        return drafters

    def _compose(self) -> list[Part]:
        """The next batch."""
        writers = [one for one in self._live if not one.unread]
        readers = [one for one in self._live if one.unread]
        parts = []
        room = self._backend.batch_tokens - len(writers)
        outputs = self._backend.batch_outputs - len(self._live)
        for writing in writers:
            limit = min(writing.draft_limit, room, outputs)
            draft = self._draft(writing, limit, len(writers) - 1) if limit > 0 else NOTHING
            room -= len(draft.tokens)
            outputs -= len(draft.tokens)
            tokens = [writing.context[-1], *draft.tokens]
            parts.append(Part(writing, Slice(sequence_of(writing), tokens, range(len(tokens))), draft))
        if readers:
            used = self._backend.batch_tokens - room
            left = min(writing.job.ms_left for writing in readers)
            several = self._clients.several_within(ALONE_SECONDS)
            most = BATCH_MS if several else min(BATCH_MS_ALONE, max(BATCH_MS, left))
            fitting = self.speed.tokens_within(BATCH_MS_BESIDE_WRITING if writers else most) - used
            parts += self._chunks(readers, min(room, max(LEAST_TOKENS, fitting)))
        return parts

    def _draft(self, writing: Writing, limit: int, beside: int) -> Draft:
        try:
            return self.speculation.draft(writing.drafters, writing.context, limit, beside)
        except Exception:
            logger.exception("a draft failed; the text is written without")
            writing.drafters = {}
            return NOTHING

    def _chunks(self, readers: list[Writing], budget: int) -> list[Part]:
        """So many tokens of prompts, fairly between clients, and the first begun first within one."""
        wanted: dict[str | None, int] = {}
        for writing in readers:
            client = writing.job.request.client
            wanted[client] = wanted.get(client, 0) + writing.unread
        left = shares(budget, wanted)
        parts = []
        for writing in readers:
            client = writing.job.request.client
            if count := min(left[client], writing.unread):
                left[client] -= count
                start = writing.prompt_tokens - writing.unread
                outputs = (count - 1,) if count == writing.unread else ()
                tokens = writing.context[start : start + count]
                parts.append(Part(writing, Slice(sequence_of(writing), tokens, outputs), NOTHING))
        return parts

    def _work(self, parts: list[Part]) -> None:
        """Puts a batch through the model and hands out what comes of it. A failure is that of the batch's jobs alone.

        What is read in the background is left off when a job comes. So is a batch that takes long, for the model is slow, when
        nobody waits for it any more; of others more is lost by that than gained, for what is typed next begins with the same.
        """
        tokens = sum(len(part.slice.tokens) for part in parts)
        jobs = {part.writing.job for part in parts}
        with self._arriving:
            self._interrupt.clear()
            self._gives_way = all(job.background for job in jobs)
            if self._gives_way and not self._inbox.empty():
                self._interrupt.set()
        if self.speed.ms(tokens) > BATCH_MS:
            self._decoding = tuple(jobs)
            self._ended(None)  # those that ended before they stood there have interrupted nothing
        started = self._decoding_since = time.monotonic()
        try:
            scores = self._backend.decode([part.slice for part in parts], self._interrupt)
        except InterruptedBatchError:
            return
        except Exception as error:
            logger.exception("the model failed")
            self._failure = str(error) or type(error).__name__
            for part in parts:
                if part.writing.sequence:
                    self._kv.forget(part.writing.sequence)
            for part in parts:
                self._fail(part.writing.job, error)
            return
        finally:
            self._decoding_since, self._decoding, self._gives_way = None, (), False
        self._failure = None
        self.speed.note(tokens, (time.monotonic() - started) * 1000)
        at = 0
        for part in parts:
            count = len(part.slice.outputs)
            try:
                self._bring_on(part, scores[at : at + count])
            except Exception as error:
                logger.exception("a completion failed")
                self._fail(part.writing.job, error)
            at += count

    def _bring_on(self, part: Part, scores: Floats) -> None:
        """Takes a part's scores in: the next tokens, if its prompt has been read."""
        writing, job = part.writing, part.writing.job
        sequence = writing.sequence
        if sequence is None:  # another candidate of its job has failed
            return
        reading = writing.unread
        self._kv.extend(sequence, part.slice.tokens)
        if not len(scores):
            return
        if reading:
            writing.prompt_was_read()
            if writing is job.writings[0]:
                for _ in range(1, job.request.candidates):
                    self._waiting.put(job)
        if writing.reason is None:
            before = writing.written
            right, wrong = writing.take(scores, part.draft.tokens, self._backend)
            self.predicted += writing.written - before
            self.speculation.checked(part.draft, right, wrong)
            self._kv.cut(sequence, len(writing.context) - 1)
        if writing is job.writings[0] and job.request.max_lines is None:  # else what is left of it shows at its end
            job.stream(writing.text.settled)
        if writing.reason is not None:
            self._leave(writing)
            if len(job.writings) == job.request.candidates and all(one.reason for one in job.writings):
                self._finish(job)

    def _leave(self, writing: Writing) -> None:
        """Ends the work on a text; what its sequence holds stays, but what was read ahead in vain goes first."""
        self._live.remove(writing)
        request = writing.job.request
        greedy = request.temperature == 0 and writing is writing.job.writings[0]
        if greedy and writing.written and request.document is not None:
            self._earlier.note((request.client, request.document), writing.context, writing.written)
        if writing.sequence:
            self._kv.end(writing.sequence, whole=not (writing.job.background and writing.unread))
            writing.sequence = None

    def _finish(self, job: Job) -> None:
        """Answers with what has been written."""
        try:
            completion = job.completion()
            job.stream(completion.text)
            job.finish(completion)
            if job.plan and job.plan.divisor > 1:
                self._on_shortened(job.request)
            elif job.plan and job.read_only:  # from now on the short prompts are of no use
                for divisor in DIVISORS[1:]:
                    self._kv.expire((job.request.document, job.plan.suffix, divisor))
        except Exception as error:  # whoever listens is gone
            logger.exception("a completion could not be handed over")
            job.finish(error)

    def _fail(self, job: Job, error: Exception) -> None:
        job.finish(error)
        for writing in self._live_of(job):
            self._leave(writing)

    def _live_of(self, job: Job) -> list[Writing]:
        return [writing for writing in self._live if writing.job is job]


def sequence_of(writing: Writing) -> int:
    """The number of the sequence that a live text is written to."""
    assert writing.sequence is not None
    return writing.sequence.id
