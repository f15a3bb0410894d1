"""Completions of engines behind a URL: real processes, one with a real model, one that fails on demand."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from codelm.errors import UserError
from codelm.tokenizer import FILE
from serving import upstream as module
from serving.engine import CancelledError, Engine
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest, StopReason, UnavailableError
from serving.upstream import Upstream
from serving.vocabulary import open_vocabulary

CODE = "import os\n\n\ndef size(path):\n    return os.path."
SUFFIX = "\n\n\nprint(size('a'))\n"


class Canned:
    """The server of llama_server.py, as a process."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def mode(self, name: str) -> None:
        httpx.post(f"{self.url}/mode", json={"mode": name}, trust_env=False).raise_for_status()

    def seen(self) -> dict[str, object]:
        return dict(httpx.get(f"{self.url}/seen", trust_env=False).json())

    def end(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.end()


@pytest.fixture
def open_upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Upstream]]:
    opened: list[Upstream] = []
    monkeypatch.setattr(module, "SILENCE_SECONDS", 3.0)
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.05, 0.2))

    def of(url: str, vocabulary: Path | None = None) -> Upstream:
        opened.append(Upstream(url, open_vocabulary(vocabulary) if vocabulary else None))
        return opened[-1]

    yield of
    for one in opened:
        one.close()


def complete(upstream: Upstream, **options: object) -> Completion:
    request = CompletionRequest(**({"prefix": CODE, "suffix": SUFFIX} | options))  # type: ignore[arg-type]
    return upstream.submit(request).future.result(timeout=60)


def until(condition: Callable[[], object]) -> None:
    """Waits for something that comes soon."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_real_server_writes_what_its_model_writes_here(
    server_url: str, gguf: Path, open_upstream: Callable[..., Upstream]
) -> None:
    engine, upstream = Engine(LlamaCpp(gguf)), open_upstream(f"{server_url}/v1", gguf)
    assert upstream.facts()["upstream"] == {"url": server_url, "api": "openai", "state": "up", "reason": None}
    for options in ({"max_lines": 1}, {"max_lines": 4}, {"max_tokens": 5}, {"stop": ("e",)}, {"prefix": CODE * 40}):
        request = CompletionRequest(**({"prefix": CODE, "suffix": SUFFIX} | options))  # type: ignore[arg-type]
        pieces: list[str] = []
        here = engine.submit(request).future.result(timeout=60)
        there = upstream.submit(request, on_text=pieces.append).future.result(timeout=60)
        assert there.text == here.text == "".join(pieces)
        # the other server cannot say that it was an end of text and not one of its own rules
        assert there.stop_reason is here.stop_reason
    engine.close()
    assert upstream.completed == 5


def test_stop_rules_counts_and_probabilities(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    upstream = open_upstream(canned.url)
    completion = complete(upstream, max_lines=1)
    assert (completion.text, completion.stop_reason) == ("left + ö", StopReason.LINE)
    assert completion.logprobs == (-0.5,) * 3
    completion = complete(upstream)
    assert (completion.text, completion.stop_reason) == ("left + ö\nprint(1)\n", StopReason.EOS)
    assert (completion.timings.prompt_tokens, completion.timings.cached_tokens, completion.timings.predicted_tokens) == (
        9,
        4,
        6,
    )
    completion = complete(upstream, max_tokens=2)
    assert (completion.text, completion.stop_reason) == ("left + ", StopReason.LENGTH)


def test_prompts_are_ids_where_the_vocabulary_is_known(
    canned: Canned, gguf: Path, tokenizer_dir: Path, open_upstream: Callable[..., Upstream]
) -> None:
    special = "<|fim_suffix|>"
    for vocabulary in (gguf, tokenizer_dir / FILE, None):
        complete(open_upstream(canned.url, vocabulary), prefix=f"a{special}b", suffix=f"c{special}d")
    of_gguf, of_tokenizer, text = (body["prompt"] for body in canned.seen()["bodies"])  # type: ignore[attr-defined]
    assert isinstance(of_gguf, list)
    assert of_gguf == of_tokenizer
    assert text == "<|fim_prefix|><|fim_suffix|>c<|fim_middle|>b", "no special token of the user's reaches the engine"


def test_a_budget_returns_what_there_is(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    upstream = open_upstream(canned.url)
    canned.mode("slow")
    completion = complete(upstream, budget_ms=450)
    assert completion.stop_reason is StopReason.DEADLINE
    assert completion.text in ("", "left", "left + ")
    canned.mode("hang")
    assert complete(upstream, budget_ms=100).text == ""


def test_one_that_is_too_slow_for_every_budget_is_down(
    canned: Canned, open_upstream: Callable[..., Upstream], caplog: pytest.LogCaptureFixture
) -> None:
    upstream = open_upstream(canned.url)
    canned.mode("hang")
    for _ in range(module.SILENT_BUDGETS):
        assert upstream.facts()["upstream"]["state"] == "up"
        complete(upstream, budget_ms=20)
    assert "is down: it said nothing within the budgets of 10 requests" in caplog.text


def test_cancelling_closes_the_stream(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    upstream = open_upstream(canned.url)
    canned.mode("slow")
    job = upstream.submit(CompletionRequest(prefix=CODE, client="editor", document="a.py"))
    until(lambda: canned.seen()["bodies"])
    newer = upstream.submit(CompletionRequest(prefix=CODE, client="editor", document="a.py", max_lines=1))
    with pytest.raises(CancelledError):
        job.future.result(timeout=60)
    until(lambda: canned.seen()["closed"])
    assert newer.future.result(timeout=60).text == "left + ö"
    assert (upstream.completed, upstream.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("hang", "Timeout"),
        ("die", "ended before"),
        ("junk", "no event of llama-server"),
        ("error", "500"),
    ],
)
def test_what_fails_is_told_counts_and_recovers(
    canned: Canned, open_upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch, mode: str, told: str
) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    upstream = open_upstream(canned.url)
    canned.mode(mode)
    with pytest.raises(UnavailableError, match=told):
        complete(upstream)
    assert upstream.facts()["upstream"]["state"] == "up", "one failure is none"
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.05, 0.2))
    for _ in range(2):
        with pytest.raises(UnavailableError):
            complete(upstream)
    canned.mode("ok")
    until(lambda: upstream.facts()["upstream"]["state"] == "up")
    assert complete(upstream, max_lines=1).text == "left + ö"


def test_what_the_engine_refuses_is_no_outage(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    upstream = open_upstream(canned.url)
    canned.mode("refuse")
    for _ in range(5):
        with pytest.raises(UnavailableError, match="refused: 400"):
            complete(upstream)
    assert upstream.facts()["upstream"]["state"] == "up"


def test_one_that_dies_is_down_until_it_is_back(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    upstream = open_upstream(canned.url)
    canned.end()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="failed"):
            complete(upstream)
    with pytest.raises(UnavailableError, match="is down"):
        complete(upstream)
    facts = upstream.facts()["upstream"]
    assert facts["state"] == "down"
    assert facts["reason"] and facts["reason"] in str(upstream.problem())
    again = Canned(canned.port)
    try:
        until(lambda: upstream.facts()["upstream"]["state"] == "up")
        assert complete(upstream, max_lines=1).text == "left + ö"
    finally:
        again.end()


def test_one_that_is_not_there_at_first(canned: Canned, open_upstream: Callable[..., Upstream]) -> None:
    canned.mode("no-model")
    upstream = open_upstream(canned.url)
    assert upstream.facts()["upstream"]["reason"] == "its /v1/models tells no model"
    canned.mode("ok")
    until(lambda: upstream.facts()["upstream"]["state"] == "up")


@pytest.mark.parametrize("url", ["", "localhost:80", "ftp://a", "http://", "x y"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UserError, match="not a URL"):
        Upstream(url)


def test_a_server_in_front_of_one_that_hangs_and_comes_back(
    canned: Canned, gguf: Path, serve: Callable[..., httpx.Client]
) -> None:
    http = serve(gguf, "--upstream", canned.url)

    def ask(number: int, budget_ms: float) -> httpx.Response:
        body = {
            "textDocument": {"uri": f"file:///w/{number}.py", "text": CODE},
            "position": {"line": 4, "character": 19},
            "codelm": {"budgetMs": budget_ms},
        }
        return http.post("/v1/textDocument/inlineCompletion", json=body)

    canned.mode("gone")
    silent = [ask(number, 30).json() for number in range(module.SILENT_BUDGETS)]
    assert {answer["codelm"]["stopReason"] for answer in silent} == {"deadline"}
    assert not any(answer["items"] for answer in silent)
    assert http.get("/health").json()["status"] == "degraded"
    assert ask(100, 10_000).status_code == 503
    canned.mode("ok")
    until(lambda: http.get("/health").json()["status"] == "ok")
    answer = ask(101, 10_000)
    assert answer.status_code == 200
    assert answer.json()["items"][0]["insertText"].startswith("left + ö")


def test_a_server_in_front_of_it(canned: Canned, gguf: Path) -> None:
    """`codelm serve --upstream`: answers, 503 with the reason, health."""
    command = [sys.executable, "-m", "cli.main", "serve", str(gguf), "--upstream", canned.url, "--port", "0"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout
        url = process.stdout.readline().split(" at ")[1].split()[0]
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
            body = {"prompt": CODE, "suffix": SUFFIX, "stop": ["\n"]}
            assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "left + ö"
            assert http.get("/health").json()["upstream"]["state"] == "up"
            canned.end()
            for stream in (False, True):
                answer = http.post("/v1/completions", json={**body, "stream": stream})
                assert "upstream" in answer.text
                assert answer.status_code == (200 if stream else 503)
                assert "503" in answer.text
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
