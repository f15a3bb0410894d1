"""The engine with everything wired: healing, the project's text, post-processing, type-through."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.request import CompletionRequest, TriggerKind

UNIQUE = "def frobnicate_the_widget(gadget, sprocket):\n    return gadget.turn(sprocket, quickly=True)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of two files."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "widgets.py").write_text(UNIQUE, encoding="utf-8")
    (tmp_path / "main.py").write_text("import widgets\n", encoding="utf-8")
    return tmp_path


def request(project: Path, prefix: str, **options: Any) -> CompletionRequest:
    path = project / "main.py"
    return CompletionRequest(
        prefix=prefix,
        suffix="\n",
        path=str(path),
        document=path.as_uri(),
        language="python",
        client="c",
        max_lines=1,
        **options,
    )


def wait_for_files(engine: Engine, asked: CompletionRequest) -> None:
    """Until the project's files are known."""
    engine.submit(asked).future.result(timeout=60)
    workspace = next(iter(engine.contexts._workspaces.values()))
    for _ in range(2000):
        if workspace.facts()["ready"]:
            break
        os.sched_yield()
        workspace._stop.wait(0.01)
    assert workspace.facts()["ready"]
    engine.contexts.mixers.wait()


def test_a_line_of_another_file_is_known_at_once(gguf: Path, start: Callable[..., Engine], project: Path) -> None:
    prefix = "import widgets\n\n\ndef frobnicate_the_widget(gadget, sproc"
    asked = request(project, prefix)
    engine = start(LlamaCpp(gguf), read_files=True)
    wait_for_files(engine, request(project, "import widgets\n"))
    assert engine.submit(asked).future.result(timeout=60).text == "ket):"
    alone = start(LlamaCpp(gguf), read_files=True, mixture=False)
    assert alone.submit(asked).future.result(timeout=60).text != "ket):"


def test_files_are_not_read_unless_allowed(model: Any, start: Callable[..., Engine], project: Path) -> None:
    engine = start(model)
    engine.submit(request(project, "import widgets\n\n\ndef frobnicate_the_widget(gadget, sproc")).future.result(timeout=60)
    assert not engine.contexts._workspaces
    assert engine.contexts.mixers.facts()["tokens"] == 0


def test_projects_do_not_hear_of_each_other(model: Any, start: Callable[..., Engine], project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".git").mkdir()
    (other / "main.py").write_text("", encoding="utf-8")
    engine = start(model, read_files=True)
    wait_for_files(engine, request(project, "import widgets\n"))
    engine.submit(request(other, "x = 1\n")).future.result(timeout=60)
    assert engine.contexts.mixers.of(project.resolve()).tokens > 0
    assert engine.contexts.mixers.of(other.resolve()).tokens == 0
    assert engine.contexts.mixers.facts()["projects"] == 2


@pytest.mark.parametrize("typed", ["r", "re", "ret", "retu"])
def test_a_word_that_is_half_typed_is_the_beginning_of_its_token(gguf: Path, start: Callable[..., Engine], typed: str) -> None:
    """A model that wants to write ` return`, one token, does so where its beginning stands."""

    class Wants:
        def begin(self, request: CompletionRequest, prompt_ids: Any) -> "Wants":
            return self

        def mix(self, logprobs: Any, context: Any) -> Any:
            mixed = logprobs - 1e3
            mixed[wanted] = 0
            return mixed

        def draft(self, context: Any, limit: int) -> list[int]:
            return []

    model = LlamaCpp(gguf)
    *_, wanted = model.encode("def f():\n    return")
    assert model.piece(wanted) == b" return"
    request = CompletionRequest(prefix=f"def f():\n    {typed}", max_tokens=1)
    assert start(model, mixture=Wants()).submit(request).future.result(timeout=60).text == "return".removeprefix(typed)
    plain = start(LlamaCpp(gguf), mixture=Wants(), healing=False)
    assert plain.submit(request).future.result(timeout=60).text == " return"


def test_typing_along_a_suggestion_needs_no_model(engine: Engine, model: Any) -> None:
    asked = CompletionRequest(
        prefix="def double(n):\n    return n * 2\n\n\ndef triple(n):\n    re", document="a.py", client="c", max_lines=1,
        trigger=TriggerKind.AUTOMATIC,
    )  # fmt: skip
    completion = engine.submit(asked).future.result(timeout=60)
    assert completion.shown
    engine.suggestions.remember(asked, completion)
    model.batches.clear()
    typed = completion.text[:2]
    rest = engine.submit(replace(asked, prefix=asked.prefix + typed)).future.result(timeout=60)
    assert (rest.text, model.batches) == (completion.text[2:], [])


def test_what_follows_is_not_written_again(engine: Engine) -> None:
    """The suffix closes what the model would close."""
    asked = CompletionRequest(prefix="print(len(items", suffix="))\nprint(len(others))\n", max_lines=1)
    text = engine.submit(asked).future.result(timeout=60).text
    assert text.count(")") <= text.count("(")
