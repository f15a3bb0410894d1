"""All models of a server: which one a request gets, and the one thread that loads, swaps and frees them."""

import asyncio
import contextlib
import difflib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from codelm.errors import UserError
from serving.answers import Answers
from serving.completer import Completer
from serving.languages import language_ids, language_of
from serving.models.loaded import Loaded
from serving.models.model import Opener, ServedModel
from serving.request import CompletionRequest, UnavailableError

LOOKS = 4
"""For models to unload, in the time after which they are."""
LONGEST_LOOK = 15.0
"""Seconds between two of them, at most."""

Result = TypeVar("Result")


class UnknownModelError(UserError):
    """There is no model of that name."""


class Lease(NamedTuple):
    """What answers one request, until it is answered."""

    name: str
    engine: Completer
    answers: Answers


class Models:
    """The models by name; the first is the default. Safe to use from every thread.

    What loads, swaps and frees takes its turn on one thread, and its callers wait.
    """

    def __init__(self, opener: Opener | None = None, unload_after: float | None = None) -> None:
        """opener: of files; None if there are none. unload_after: seconds without a request after which a model is freed."""
        self._opener = opener
        self._models: list[ServedModel] = []
        self._routes: dict[str, ServedModel] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="models")
        self._closed = threading.Event()
        if unload_after is not None:
            threading.Thread(target=self._unload_idle, args=(unload_after,), name="idle", daemon=True).start()

    @classmethod
    def of(cls, engine: Completer, answers: Answers | None = None) -> "Models":
        """One that is open already and can only be closed. answers: by default what its own gate says, and no more."""
        models = cls()
        answers = answers or Answers(engine.model.metadata.gate, suggestions=engine.suggestions)
        models._models.append(ServedModel(Loaded(engine, answers), models._free))
        return models

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.copy())

    @property
    def default(self) -> ServedModel:
        """The first."""
        return self._models[0]

    @property
    def names(self) -> list[str]:
        """Of all models, the default's first."""
        return [model.name for model in self]

    def named(self, name: str) -> ServedModel:
        """The model of that name. Raises UnknownModelError if there is none."""
        for model in self:
            if model.name == name:
                return model
        close = difflib.get_close_matches(name, self.names, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.names)}"
        raise UnknownModelError(f"no model is named {name!r}", fix)

    def load(self, path: Path, name: str | None = None) -> ServedModel:
        """One more model. name: by default its bundle's, or if that is taken its file's without `.gguf`.

        Raises UserError if it cannot be loaded, or if the name is taken.
        """
        return self._on_worker(lambda: self._load(path, name))

    def put(self, name: str, path: Path, languages: Sequence[str] = ()) -> ServedModel:
        """Has a name answered by a file: a swap if there is such a model, else one more. languages: to be routed there.

        Raises UserError as load(), `ServedModel.swap` and route() do; then nothing has changed.
        """
        if not name.strip():
            raise UserError("the name of a model is blank", "give it one")
        for language in languages:
            check_language(language)
        model = self._on_worker(lambda: self._put(name, path))
        for language in languages:
            self.route(language, name)
        return model

    def roll_back(self, name: str) -> None:
        """Swaps back to the file before. Raises UserError if that cannot be."""
        self._on_worker(self.named(name).roll_back)

    def unload(self, name: str) -> None:
        """Frees a model's memory, when requests in flight are done; the next request loads it again."""
        self._on_worker(self.named(name).unload)

    def adapt(self, workspace: Path, adapter: Path | None, name: str | None = None) -> list[ServedModel]:
        """Lays an adapter over a model for the documents in a folder, or with None takes away what there is.

        name: of the model; by default the first that the adapter fits, or all to take away. Returns the models that changed.
        Raises UserError if it fits none.
        """
        if adapter and not workspace.is_dir():
            raise UserError(f"{workspace} is no folder", "give the folder of a workspace")
        models = [self.named(name)] if name is not None else list(self)
        return self._on_worker(lambda: self._adapt(workspace.resolve(), adapter, models))

    def route(self, language: str, name: str) -> None:
        """Has a language's documents answered by a model. language: LSP id or file extension.

        Raises UserError if there is no such model, or if the language looks misspelt.
        """
        check_language(language)
        self._routes[key_of(language, None)] = self.named(name)

    def choose(self, request: CompletionRequest) -> ServedModel:
        """The model that is named, else the one of the language, else the first. Raises UnknownModelError."""
        if request.model is not None:
            return self.named(request.model)
        routed = self._routes.get(key_of(request.language, request.path)) if self._routes else None
        return routed or self.default

    @contextlib.asynccontextmanager
    async def lease(self, request: CompletionRequest) -> AsyncIterator[Lease]:
        """What answers a request; it is not freed before the end of the block. Loads it if need be.

        Raises UnknownModelError if the request names a model that there is not, UnavailableError if it cannot be loaded.
        """
        model = self.choose(request)
        while (loaded := model.take(adapter := model.adapter_for(request))) is None:
            try:
                await asyncio.wrap_future(self._worker.submit(model.open, adapter))
            except UserError as error:
                raise UnavailableError(f"{model.name} could not be loaded again: {error}") from error
        try:
            yield Lease(model.name, loaded.engine, loaded.answers)
        finally:
            loaded.release()

    def warm(self, request: CompletionRequest) -> None:
        """Reads a request's prompt ahead; if the model must be loaded first, then that. Does not wait for either.

        Raises UnknownModelError as lease() does.
        """
        model = self.choose(request)
        adapter = model.adapter_for(request)

        def read() -> bool:
            if loaded := model.take(adapter):
                try:
                    loaded.engine.warm(request)
                finally:
                    loaded.release()
            return loaded is not None

        def open_and_read() -> None:
            model.open(adapter)
            read()

        if not read():
            self._worker.submit(open_and_read)

    def accepted(self, id_: str) -> None:
        """To be told that a completion was taken: the model that wrote it writes ahead."""
        for loaded in self._all_loaded():
            with contextlib.suppress(RuntimeError):  # it was closed in this very moment
                loaded.engine.accepted(id_)

    def dismissed(self, id_: str) -> None:
        """To be told that a completion was sent away."""
        for loaded in self._all_loaded():
            loaded.engine.suggestions.dismiss(id_)

    def problem(self) -> str | None:
        """What is wrong with the first of the models that something is wrong with."""
        several = len(self._models) > 1
        told = (f"{model.name}: {problem}" if several else problem for model in self if (problem := model.problem()))
        return next(told, None)

    def counts(self) -> Counter[str]:
        """What became of all requests, by `serving.models.model.COUNTS`."""
        return sum((model.counts() for model in self), Counter())

    def facts(self) -> list[dict[str, Any]]:
        """Of each model, the default first."""
        routes = self._routes.copy()
        return [
            {**model.facts(), "languages": [language for language, routed in routes.items() if routed is model]}
            for model in self
        ]

    def close(self) -> None:
        """Gives up all work, ends the threads and frees the memory."""
        self._closed.set()
        self._worker.shutdown(cancel_futures=True)
        for model in self:
            model.close()

    def _load(self, path: Path, name: str | None) -> ServedModel:
        if self._opener is None:
            raise UserError("this server loads no files", "start one without --upstream")
        loaded = self._opener(path)
        own = loaded.engine.model.metadata.name
        chosen = name or (own if own not in self.names else path.stem)
        if chosen in self.names:
            loaded.close()
            raise UserError(f"{path}: a model is named {chosen!r} already", "give it a name: NAME=MODEL.gguf")
        model = ServedModel(loaded, self._free, chosen, path, self._opener)
        self._models.append(model)
        return model

    def _put(self, name: str, path: Path) -> ServedModel:
        if name not in self.names:
            return self._load(path, name)
        self.named(name).swap(path)
        return self.named(name)

    def _adapt(self, workspace: Path, adapter: Path | None, models: list[ServedModel]) -> list[ServedModel]:
        if adapter is None:
            changed = [model for model in models if workspace in model.adapters]
            for model in changed:
                model.adapt(workspace, None)
            return changed
        errors = []
        for model in models:
            try:
                model.adapt(workspace, adapter)
                return [model]
            except UserError as error:
                errors.append(error)
        raise errors[0]

    def _all_loaded(self) -> list[Loaded]:
        return [loaded for model in self for loaded in model.loaded()]

    def _on_worker(self, work: Callable[[], Result]) -> Result:
        return self._worker.submit(work).result()

    def _free(self, work: Callable[[], object]) -> "Future[object] | None":
        with contextlib.suppress(RuntimeError):  # close() frees all
            return self._worker.submit(work)
        return None

    def _unload_idle(self, after: float) -> None:
        def look() -> None:
            for model in self:
                model.unload(idle_since=time.monotonic() - after)

        while not self._closed.wait(min(after / LOOKS, LONGEST_LOOK)):
            with contextlib.suppress(RuntimeError):
                self._worker.submit(look)


def check_language(language: str) -> None:
    """Raises UserError for what looks like a misspelt LSP id or file extension; others may be of languages unknown here."""
    ids = language_ids()
    close = difflib.get_close_matches(language.lower(), ids, n=1)
    if language.lower() not in ids and close:
        raise UserError(f"no language is known as {language!r}", f"did you mean {close[0]!r}?")


def key_of(language: str | None, path: str | None) -> str:
    """What a language is routed by: the name of one that is known by its LSP id or the file's extension, else the id."""
    known = language_of(language, path).name
    return known if known != "default" else (language or "").lower()
