"""`codelm serve --draft` with a real smaller model of the same tokenizer: the same texts as without, sooner or later."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serving.engine import Engine
from serving.models.opening import Opening
from serving.request import Completion, CompletionRequest

HEADS = (
    "import os\n\n\ndef size(path):\n    return ",
    "class Point:\n    def __init__(self, x, y):\n        self.",
    "for name, value in sorted(items):\n    print(",
    "def read(file):\n    with open(file) as stream:\n        ",
    "    if not isinstance(value, str):\n        raise ",
    "try:\n    import json\nexcept ",
    "parser.add_argument('--",
    "        self.assertEqual(",
)
TIE = 0.05


@pytest.fixture
def engines(gguf: Path, small_gguf: Path) -> Iterator[tuple[Engine, Engine]]:
    """As the command makes them: one that guesses nothing, and one that lets the draft model guess whatever it costs."""
    without = Opening(threads=1, mixture=False, speculation=False)(gguf).engine
    drafted = Opening(threads=1, mixture=False, draft=small_gguf)(gguf).engine
    assert isinstance(without, Engine)
    assert isinstance(drafted, Engine)
    speculation = drafted._scheduler.speculation
    speculation._worth = lambda record, beside: 4  # type: ignore[method-assign]
    yield without, drafted
    without.close()
    drafted.close()


def test_the_text_is_the_same_and_some_of_the_guesses_are_right(engines: tuple[Engine, Engine]) -> None:
    """Texts may part where two tokens are as likely as each other, and only there."""
    parted = 0
    for head in HEADS:
        asked = CompletionRequest(prefix=head, max_tokens=32)
        without, drafted = (engine.submit(asked).future.result(timeout=120) for engine in engines)
        assert without.timings.drafted_tokens == 0
        if without.text != drafted.text:
            assert tied(without, drafted), f"{without.text!r} and {drafted.text!r} part without a tie"
            parted += 1
    assert parted < len(HEADS) / 2
    record = engines[1]._scheduler.speculation.records["model"]
    assert record.acceptance > 0.05, "a model of the same code is right at times"
    assert record.ms > 0
    assert not engines[0]._scheduler.speculation.records


def tied(one: Completion, other: Completion) -> bool:
    """Whether two texts part where their tokens are as likely as each other."""
    pairs = zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=False)
    return any(abs(logprob - other_logprob) < TIE for token, second, logprob, other_logprob in pairs if token != second)


def test_a_server_with_a_draft_answers_as_one_without(gguf: Path, small_gguf: Path, serve: Callable[..., httpx.Client]) -> None:
    with_draft, without = serve(gguf, "--draft", str(small_gguf)), serve(gguf, "--no-speculation")
    same = 0
    for head in HEADS:
        texts = set()
        for http in (with_draft, without):
            answer = http.post("/v1/completions", json={"prompt": head, "max_tokens": 16}).raise_for_status().json()
            texts.add(answer["choices"][0]["text"])
        same += len(texts) == 1
    assert same >= len(HEADS) - 1, "all but for ties"
    assert with_draft.get("/health").json()["status"] == "ok"


def test_a_draft_that_may_not_guess_is_a_contradiction(gguf: Path, small_gguf: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "serve", str(gguf), "--draft", str(small_gguf), "--no-speculation"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2
    assert process.stderr.startswith("error: --draft guesses ahead")
