"""A real model whose work can be watched, held up and broken."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.backend import Interrupt, InterruptedBatchError, Slice
from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest

TIE = 0.05
"""Two tokens with log-probabilities this close may change places: products of several rows at once round another way."""


class Watched(LlamaCpp):
    """A real model that tells when it works."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.batches: list[list[Slice]] = []
        self.interrupted = 0
        self.shared: list[tuple[int, int, int]] = []
        self.on_decode: Callable[[Sequence[Slice]], object] = lambda batch: None
        super().__init__(*arguments, **options)

    def decode(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> Any:
        self.batches.append(list(batch))
        self.on_decode(batch)
        try:
            return super().decode(batch, interrupt)
        except InterruptedBatchError:
            self.interrupted += 1
            raise

    def share(self, source: int, target: int, length: int) -> None:
        self.shared.append((source, target, length))
        super().share(source, target, length)

    @property
    def tokens_read(self) -> int:
        return sum(len(one.tokens) for batch in self.batches for one in batch)


class Gate:
    """Holds the model up at its next batch until it is opened."""

    def __init__(self, model: Watched) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()

        def on_decode(batch: Sequence[Slice]) -> None:
            self.reached.set()
            assert self._opened.wait(60)

        model.on_decode = on_decode

    def wait(self) -> None:
        assert self.reached.wait(60)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> type[Gate]:
    return Gate


@pytest.fixture
def model(gguf: Path) -> Watched:
    return Watched(gguf)


@pytest.fixture
def start() -> Iterator[Callable[..., Engine]]:
    """Starts engines, whose models' batches count from then on, and closes them."""
    engines = []

    def start(model: Any, *arguments: Any, **options: Any) -> Engine:
        engine = Engine(model, *arguments, **options)
        engines.append(engine)
        if isinstance(model, Watched):
            model.batches.clear()
        return engine

    yield start
    for engine in engines:
        if not engine._closed:
            engine.close()


@pytest.fixture
def engine(model: Watched, start: Callable[..., Engine]) -> Engine:
    return start(model)


@pytest.fixture
def same() -> Callable[[Completion, Completion], bool]:
    """Whether two completions are the same. They may part where two tokens are as likely as each other: that is False."""

    def same(one: Completion, other: Completion) -> bool:
        if one.text == other.text:
            return True
        pairs = zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=False)
        for token, other_token, logprob, other_logprob in pairs:
            assert abs(logprob - other_logprob) < TIE
            if token != other_token:
                return False
        pytest.fail(f"{one.text!r} and {other.text!r} part without a tie")

    return same


@pytest.fixture
def complete() -> Callable[..., Completion]:
    """The completion of a text, from an engine."""

    def complete(engine: Engine, prefix: str, suffix: str = "\n", **options: Any) -> Completion:
        return engine.submit(CompletionRequest(prefix=prefix, suffix=suffix, **options)).future.result(timeout=60)

    return complete
