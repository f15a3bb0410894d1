"""Real models under names, that can be watched and held up."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving import llamacpp
from serving.models import Models
from serving.models.opening import Opening
from serving.request import Completion, CompletionRequest

CODE = "import os\n\n\ndef size(path):\n    return os.path."
Ask = Callable[..., tuple[str, Completion]]


@pytest.fixture
def start(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Models]]:
    """Begins with no model; ends all."""
    monkeypatch.setattr(llamacpp, "LlamaCpp", type(model))
    model.close()
    started = []

    def start(**options: Any) -> Models:
        opener = options.pop("opener", None) or Opening(threads=1, kv_memory=8)
        started.append(Models(opener, **options))
        return started[-1]

    yield start
    for models in started:
        models.close()


@pytest.fixture
def ask() -> Ask:
    """Who answered, and what."""

    def ask(models: Models, **options: Any) -> tuple[str, Completion]:
        request = CompletionRequest(**{"prefix": CODE, "suffix": "\n", "max_tokens": 12} | options)

        async def answered() -> tuple[str, Completion]:
            async with models.lease(request) as (name, engine, answers):
                written = await asyncio.wrap_future(engine.submit(request).future)
                return name, await answers.finish(request, written)

        return asyncio.run(answered())

    return ask


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits for what comes by itself."""

    def until(condition: Callable[[], object]) -> None:
        for _ in range(6000):
            if condition():
                return
            time.sleep(0.01)
        pytest.fail("it did not come")

    return until
