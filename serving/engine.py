"""The engine: completes requests, many at once. The face of the scheduler, which works on them."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from serving import backend
from serving.backend import Backend, Memory
from serving.job import CancelledError, Job, OnText
from serving.mixture import Mixer, Mixers
from serving.mixture.table import MAX_VOCAB
from serving.request import CompletionRequest
from serving.scheduler import Scheduler
from serving.speculation import DraftModel
from serving.type_through import ShownSuggestions
from serving.workspace.context import Contexts
from serving.workspace.relevance import ALL, Source

__all__ = ["CancelledError", "Engine", "Job"]

PARALLEL = 4
REMEMBERED = 64
"""Completions that may still be accepted, each with its request, which has a whole file."""
IN_BACKGROUND = 64
"""Prompts that wait to be read ahead; of more, the oldest are given up."""


class Engine:
    """Completes requests. Safe to use from every thread."""

    def __init__(
        self,
        model: Backend,
        parallel: int = PARALLEL,
        draft_model: DraftModel | None = None,
        *,
        read_files: bool = False,
        sources: Collection[Source] = ALL,
        mixture: bool | backend.Mixer = True,
        healing: bool = True,
        speculation: bool = True,
    ) -> None:
        """Takes the models over: close() closes them. parallel: texts to work on at once.

        read_files: of folders that requests name, for context. sources: of chunks of other files in the prompt. mixture:
        whether the project is mixed into the model's probabilities, or what else is; if it is not, it drafts all the same.
        healing: whether a word that is half typed is read as the beginning of its token. speculation: whether tokens are
        guessed ahead, by the draft model or else; the text is the same.

        `suggestions` are asked before the model; who shows a completion has them remember it.
        `completed` and `cancelled` count what became of the requests, `failed` those that the model could not answer.
        """
        self.model = model
        self._draft_model = draft_model
        self.suggestions = ShownSuggestions()
        self._newest: dict[tuple[str, str], Job] = {}
        self._ahead: OrderedDict[tuple[str | None, str | None] | int, Job] = OrderedDict()
        self._answered: OrderedDict[str, tuple[CompletionRequest, str]] = OrderedDict()
        self._lock = threading.RLock()
        self.completed = 0
        self.cancelled = 0
        self.failed = 0
        self._closed = False
        of_project = isinstance(mixture, bool) and (mixture or speculation) and model.vocab_size <= MAX_VOCAB

        def new_mixer(on_change: Callable[[], object]) -> Mixer:
            return Mixer(model.encode, model.piece, model.vocab_size, on_change=on_change)

        self.contexts = Contexts(
            model.fim,
            model.context_length,
            repo_context=model.metadata.repo_context,
            read_files=read_files,
            sources=sources,
            mixers=Mixers(new_mixer) if of_project else None,
        )
        mixer = self.contexts if of_project else None if isinstance(mixture, bool) else mixture
        self._scheduler = Scheduler(
            model, parallel, self.contexts, draft_model, mixer, mixture is not False, healing, speculation, self.warm
        )

    def submit(self, request: CompletionRequest, on_text: OnText | None = None) -> Job:
        """Begins a request. on_text: called with each new piece of the first candidate's text, from the engine's thread.

        A newer request of the same client for the same document cancels an older one.
        """
        job = Job(request, on_text)
        found = self.suggestions.find(request)
        with self._lock:
            self._check_open()
            if not found and (ahead := self._ahead.pop((request.client, request.document), None)):
                ahead.cancel()
            if request.client is not None and request.document is not None:
                key = (request.client, request.document)
                if older := self._newest.get(key):
                    older.cancel()
                self._newest[key] = job
                job.future.add_done_callback(lambda _: self._forget_newest(key, job))
        job.future.add_done_callback(lambda _: self._count(job))
        if found:
            job.stream(found.text)
            job.finish(found)
        else:
            self._scheduler.put(job)
        return job

    def warm(self, request: CompletionRequest) -> Job:
        """Reads a request's prompt when nothing else is to be done, so that the request will find it read.

        Gives way to every other request at once; the next one for the same document cancels it.
        """
        return self._put_ahead(Job(replace(request, budget_ms=None, candidates=1), background=True, read_only=True))

    def accepted(self, id_: str) -> Job | None:
        """To be told that a completion was taken: what may come on the next line is made ahead, in the background.

        id_: of the completion; None is returned if it is not known, or no longer.
        """
        with self._lock:
            request, text = self._answered.get(id_, (None, ""))
        if request is None or request.temperature > 0:
            return None
        next_line = replace(request, prefix=f"{request.prefix}{text}\n", budget_ms=None, candidates=1)
        job = Job(next_line, background=True)

        def remember(_: object) -> None:
            if not job.cancelled and not job.future.exception():
                self.suggestions.remember(next_line, job.future.result())

        job.future.add_done_callback(remember)
        return self._put_ahead(job)

    @property
    def predicted_tokens(self) -> int:
        """How many were written, also of texts that nobody waited for."""
        return self._scheduler.predicted

    def check(self) -> None:
        """Has a few tokens written, no request's. Raises whatever goes wrong with that."""
        job = Job(CompletionRequest(prefix="def add(a, b):\n    return ", max_tokens=4))
        self._scheduler.put(job)
        job.future.result()

    def memory(self) -> Memory:
        """A draft counts among what comes with the engine."""
        weights, contexts = self.model.memory()
        return Memory(weights, contexts + sum(self._draft_model.memory() if self._draft_model else ()))

    def problem(self) -> str | None:
        """What is wrong with the model or its file, though requests are taken; None if nothing is."""
        return self._scheduler.problem() or self.model.problem()

    def facts(self) -> dict[str, Any]:
        """Where it computes, what is known of projects, and what memory that takes (`Contexts.facts`)."""
        return {"device": self.model.device, **self.contexts.facts()}

    def close(self) -> None:
        """Gives up all work, ends the thread and frees the models."""
        with self._lock:
            self._closed = True
        self._scheduler.close()
        self.contexts.close()
        if self._draft_model:
            self._draft_model.close()
        self.model.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")

    def _put_ahead(self, job: Job) -> Job:
        request = job.request
        key = id(job) if request.document is None else (request.client, request.document)
        with self._lock:
            self._check_open()
            if older := self._ahead.pop(key, None):
                older.cancel()
            self._ahead[key] = job
            if len(self._ahead) > IN_BACKGROUND:
                self._ahead.popitem(last=False)[1].cancel()
        job.future.add_done_callback(lambda _: self._forget_ahead(key, job))
        self._scheduler.put(job)
        return job

    def _forget_ahead(self, key: tuple[str | None, str | None] | int, job: Job) -> None:
        with self._lock:
            if self._ahead.get(key) is job:
                del self._ahead[key]

    def _forget_newest(self, key: tuple[str, str], job: Job) -> None:
        with self._lock:
            if self._newest.get(key) is job:
                del self._newest[key]

    def _count(self, job: Job) -> None:
        error = job.future.exception()
        with self._lock:
            if isinstance(error, CancelledError):
                self.cancelled += 1
            elif error:
                self.failed += 1
            else:
                self.completed += 1
                completion = job.future.result()
                for one in (completion, *completion.alternatives):
                    self._answered[one.id] = job.request, one.text
                while len(self._answered) > REMEMBERED:
                    self._answered.popitem(last=False)
