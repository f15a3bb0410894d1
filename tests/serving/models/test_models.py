"""Which model a request gets, and what becomes of requests while models are swapped, unloaded and loaded again."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from codelm.errors import UserError
from serving.models import Loaded, Models, UnknownModelError
from serving.models.opening import Opening
from serving.request import Completion, UnavailableError
from serving.stamp import change, stamp

Ask = Callable[..., tuple[str, Completion]]
Start = Callable[..., Models]
Marked = Callable[[str, float], Path]
Until = Callable[[Callable[[], object]], None]
A, B = 0.42, 0.17


def facts(models: Models, name: str = "tiny") -> dict[str, Any]:
    return next(one for one in models.facts() if one["name"] == name)


def test_a_request_gets_the_model_it_names_or_that_of_its_language_or_the_first(start: Start, ask: Ask, marked: Marked) -> None:
    models = start()
    models.load(marked("a", A))
    models.load(marked("b", B))
    models.route("rust", "b")
    assert models.names == ["tiny", "b"], "a name that is taken is the file's"

    def asked(**options: Any) -> tuple[str, float]:
        name, completion = ask(models, **options)
        return name, round(completion.confidence, 2)

    assert asked() == ("tiny", A)
    assert asked(language="python", path="/w/a.py") == ("tiny", A)
    assert asked(language="rust") == ("b", B), "each has a gate of its own"
    assert asked(path="/w/a.rs") == ("b", B)
    assert asked(language="rust", model="tiny") == ("tiny", A)
    assert asked(model="b") == ("b", B)
    with pytest.raises(UnknownModelError, match="did you mean 'tiny'"):
        ask(models, model="tinny")
    assert [one["languages"] for one in models.facts()] == [[], ["Rust"]]
    assert models.counts()["completed"] == 6


def test_routes_and_names_that_cannot_be(start: Start, gguf: Path) -> None:
    models = start()
    models.load(gguf)
    with pytest.raises(UserError, match="did you mean 'python'"):
        models.route("pyhton", "tiny")
    models.route("brainfuck", "tiny")
    with pytest.raises(UnknownModelError):
        models.route("python", "other")
    with pytest.raises(UserError, match="named 'tiny' already"):
        models.load(gguf, "tiny")
    with pytest.raises(UserError, match="does not exist"):
        models.load(gguf.parent / "none.gguf")
    assert models.names == ["tiny"]


def test_a_swap_answers_new_requests_and_lets_the_old_model_finish_what_it_began(
    start: Start, ask: Ask, marked: Marked, gate: Any, until: Until
) -> None:
    models = start()
    models.load(marked("a", A))
    _, before = ask(models)
    old = models.default.loaded()[0].engine
    held = gate(old.model)
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(ask, models)
        held.wait()
        models.put("tiny", marked("b", B))
        name, completion = ask(models)
        assert (name, completion.confidence) == ("tiny", B), "the new one answers while the old one is held up"
        assert facts(models)["finishing"] == 1
        assert not old._closed  # type: ignore[attr-defined]
        held.open()
        name, completion = in_flight.result(timeout=60)
    assert (name, completion.confidence, completion.text) == ("tiny", A, before.text)
    until(lambda: old._closed)  # type: ignore[attr-defined]
    assert models.counts()["completed"] == 3, "those of the model that is gone count too"


def test_a_swap_to_what_cannot_be_served_leaves_the_old_model(start: Start, ask: Ask, marked: Marked, tmp_path: Path) -> None:
    opening, bad = Opening(threads=1, kv_memory=8), marked("bad", B)

    def opener(path: Path, adapter: Path | None = None, beside: Loaded | None = None) -> Loaded:
        loaded = opening(path, adapter, beside)
        if path == bad:
            loaded.engine.model.on_decode = lambda batch: 1 / 0  # type: ignore[attr-defined]
        return loaded

    models = start(opener=opener)
    good = models.load(marked("a", A)).path
    half = tmp_path / "half.gguf"
    half.write_bytes(bad.read_bytes()[:5000])
    for path, told in ((half, "cut short"), (tmp_path / "none.gguf", "does not exist"), (bad, "then fails: division by zero")):
        with pytest.raises(UserError, match=told):
            models.put("tiny", path)
        failure = facts(models)["failure"]
        assert str(path) in failure
        assert str(good) in failure
        assert ask(models)[1].confidence == A
        assert (facts(models)["path"], facts(models)["previous"]) == (str(good), None)
    with pytest.raises(UserError, match="no other file"):
        models.roll_back("tiny")
    assert models.problem() is None, "what serves is well"
    models.put("tiny", marked("b", B))
    assert facts(models)["failure"] is None


def test_rolling_back_serves_the_file_before_unless_it_has_changed(start: Start, ask: Ask, marked: Marked) -> None:
    models, a, b = start(), marked("a", A), marked("b", B)
    models.load(a)
    models.put("tiny", b)
    models.roll_back("tiny")
    assert ask(models)[1].confidence == A
    models.roll_back("tiny")
    assert ask(models)[1].confidence == B, "back from going back"
    shutil.copy(b, a)
    with pytest.raises(UserError, match="has changed since"):
        models.roll_back("tiny")
    assert ask(models)[1].confidence == B


def test_an_idle_model_is_freed_and_the_next_request_loads_it(start: Start, ask: Ask, marked: Marked, until: Until) -> None:
    models = start(unload_after=0.2)
    models.load(marked("a", A))
    engine = models.default.loaded()[0].engine
    until(lambda: facts(models)["state"] == "unloaded")
    until(lambda: engine._closed)  # type: ignore[attr-defined]
    assert facts(models)["memory"] == {"weights": 0, "contexts": 0}
    assert facts(models)["gate"]["best_precision"] == 0.6, "what is known of it stays known"
    assert models.problem() is None
    assert ask(models)[1].confidence == A
    assert models.default.metadata.name == "tiny"


def test_a_model_with_a_request_in_flight_is_not_idle(start: Start, ask: Ask, gguf: Path, gate: Any) -> None:
    models = start()
    model = models.load(gguf)
    held = gate(model.loaded()[0].engine.model)
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(ask, models)
        held.wait()
        model.unload(idle_since=time.monotonic() + 1000)
        assert facts(models)["state"] == "loaded"
        models.unload("tiny")  # by hand: it is freed when that request is answered
        assert (facts(models)["state"], facts(models)["finishing"]) == ("unloaded", 1)
        held.open()
        assert in_flight.result(timeout=60)[1].text
    assert ask(models)[1].text
    model.unload(idle_since=time.monotonic() + 1000)
    assert facts(models)["state"] == "unloaded", "else the test says nothing"


def test_a_model_that_cannot_be_loaded_again_is_told(start: Start, ask: Ask, marked: Marked) -> None:
    models = start()
    path = models.load(marked("a", A)).path
    assert path
    models.unload("tiny")
    kept = path.rename(path.with_suffix(".kept"))
    with pytest.raises(UnavailableError, match="does not exist"):
        ask(models)
    assert "does not exist" in str(models.problem())
    kept.rename(path)
    assert ask(models)[1].confidence == A
    assert models.problem() is None


def test_reading_ahead_loads_a_model_that_was_unloaded(start: Start, ask: Ask, gguf: Path, until: Until) -> None:
    from serving.request import CompletionRequest

    models = start()
    models.load(gguf)
    models.unload("tiny")
    request = CompletionRequest(prefix="x = 1\n" * 9, document="file:///w/a.py")
    models.warm(request)
    until(lambda: facts(models)["state"] == "loaded")
    model = models.default.loaded()[0].engine.model
    until(lambda: model.batches and model.batches[-1][-1].outputs)  # type: ignore[attr-defined]


def test_suggestions_are_those_of_the_model_that_made_them(start: Start, ask: Ask, marked: Marked) -> None:
    models = start()
    models.load(marked("a", A))
    models.load(marked("b", B))
    options = {"document": "file:///w/a.py", "client": "editor"}
    first, again = ask(models, **options)[1], ask(models, **options)[1]
    assert again.id == first.id
    assert ask(models, model="b", **options)[1].confidence == B
    models.dismissed(first.id)
    assert ask(models, **options)[1].id != first.id


def test_a_checkpoint_is_another_when_newer_weights_lie_in_its_folder(tmp_path: Path) -> None:
    for number in (1, 2):
        before = stamp(tmp_path)
        checkpoint = tmp_path / "pretrain" / f"checkpoint-{number}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"x" * number)
        assert stamp(tmp_path) != before
    assert change(tmp_path, before) == f"{tmp_path} has changed since it was loaded"
    assert change(tmp_path, stamp(tmp_path)) is None
