import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.engine import CancelledError, Engine
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest, StopReason, Timings

CODE = "import os\n\n\ndef size(path):\n    return os.path."
SUFFIX = "\n\n\ndef name(path):\n    return os.path.basename(path)\n"


class Watched(LlamaCpp):
    """A real model that tells when it reads."""

    reads = 0
    on_read: Callable[[], object] = staticmethod(lambda: None)

    def read(self, tokens: list[int]) -> None:  # type: ignore[override]
        super().read(tokens)
        self.reads += 1
        self.on_read()


@pytest.fixture
def model(gguf: Path) -> Watched:
    return Watched(gguf)


@pytest.fixture
def engine(model: Watched) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


def complete(engine: Engine, prefix: str = CODE, **options: object) -> Completion:
    request = CompletionRequest(prefix=prefix, suffix=SUFFIX, **options)  # type: ignore[arg-type]
    return engine.submit(request).future.result(timeout=60)


def test_a_completion_says_what_it_is(engine: Engine) -> None:
    completion = complete(engine, max_lines=8)
    timings = completion.timings
    assert completion.id.startswith("cmpl-")
    assert completion.shown == bool(completion.text.strip())
    assert 0 <= completion.confidence <= 1
    assert timings.cached_tokens == 0 < timings.prompt_tokens
    assert len(completion.logprobs) <= timings.predicted_tokens <= 128
    assert timings.total_ms >= timings.prompt_ms + timings.predict_ms
    assert "<|" not in completion.text


@pytest.mark.parametrize(("text", "shown"), [("", False), ("  \n\t", False), ("  x", True)])
def test_white_space_is_not_worth_showing(text: str, shown: bool) -> None:
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    completion = Completion(id="cmpl-1", text=text, stop_reason=StopReason.EOS, logprobs=(), timings=timings)
    assert completion.shown is shown


def test_greedy_repeats_and_seeds_repeat(engine: Engine) -> None:
    complete(engine)  # from now on the same part of the prompt is in the cache
    assert complete(engine).text == complete(engine).text
    one, two = (complete(engine, temperature=1.0, top_p=0.9, seed=3) for _ in range(2))
    assert one.text == two.text
    others = {complete(engine, temperature=1.5, seed=seed).text for seed in range(8)}
    assert len(others) > 1


def test_typing_reads_a_few_tokens_a_keystroke(engine: Engine) -> None:
    before = "".join(f"value_{number} = compute({number}, 'text')\n" for number in range(300))
    typed = "\ndef total(items):\n    result = 0\n    for item in items:\n        result += item.price\n"
    read = []
    for end in range(len(typed) + 1):
        timings = complete(engine, before + typed[:end], max_lines=1, max_tokens=16).timings
        read.append(timings.prompt_tokens - timings.cached_tokens)
    assert read[0] > 100
    moves = [tokens for tokens in read[1:] if tokens >= 8]
    # the context of the tests' model is 256 tokens, about 12 of these lines
    assert len(moves) <= typed.count("\n") // 2, "the window moved more often than every other line"
    assert max(read[1:3]) < 8


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_length(engine: Engine, max_tokens: int) -> None:
    completion = complete(engine, max_tokens=max_tokens)
    assert completion.timings.predicted_tokens <= max_tokens
    assert completion.stop_reason is StopReason.LENGTH or completion.timings.predicted_tokens < max_tokens


def test_more_tokens_than_the_context_holds(engine: Engine) -> None:
    completion = complete(engine, "x = 1\n" * 5000, max_tokens=10**9, temperature=1.0, seed=0)
    assert completion.timings.prompt_tokens + completion.timings.predicted_tokens <= engine.model.context_length


def test_one_line_is_one_line(engine: Engine) -> None:
    for seed in range(5):
        completion = complete(engine, max_lines=1, temperature=1.0, seed=seed)
        assert "\n" not in completion.text


def test_a_stop_string_is_not_part_of_the_text(engine: Engine) -> None:
    texts = {seed: complete(engine, temperature=1.0, seed=seed).text for seed in range(8)}
    seed, plain = next((seed, text) for seed, text in texts.items() if text)
    stopped = complete(engine, temperature=1.0, seed=seed, stop=(plain[len(plain) // 2],))
    assert stopped.text == plain[: plain.index(plain[len(plain) // 2])]
    assert stopped.stop_reason is StopReason.STOP


def test_a_deadline_ends_reading_and_writing(engine: Engine, model: Watched) -> None:
    assert complete(engine, budget_ms=0.001).stop_reason is StopReason.DEADLINE
    assert model.reads == 0
    assert complete(engine, budget_ms=60_000).stop_reason is not StopReason.DEADLINE


def test_what_is_streamed_is_the_text(engine: Engine) -> None:
    for seed in range(5):
        pieces: list[str] = []
        request = CompletionRequest(prefix=CODE, max_lines=8, temperature=1.0, seed=seed)
        completion = engine.submit(request, on_text=pieces.append).future.result(timeout=60)
        assert "".join(pieces) == completion.text
        assert all(pieces)


def test_cancelling_ends_the_reading_of_a_prompt(engine: Engine, model: Watched) -> None:
    model.chunk = 16
    started, go_on = threading.Event(), threading.Event()

    def on_read() -> None:
        started.set()
        go_on.wait(60)

    model.on_read = on_read  # type: ignore[method-assign]
    job = engine.submit(CompletionRequest(prefix=CODE * 20))
    started.wait(60)
    job.cancel()
    with pytest.raises(CancelledError):
        job.future.result(timeout=60)
    go_on.set()
    next_job = engine.submit(CompletionRequest(prefix=CODE, max_tokens=0))
    next_job.future.result(timeout=60)
    timings = next_job.future.result().timings
    assert model.reads == 1 + -(-(timings.prompt_tokens - timings.cached_tokens) // 16)
    assert (engine.completed, engine.cancelled) == (1, 1)


def test_the_newest_request_of_a_client_for_a_document_wins(engine: Engine, model: Watched) -> None:
    started, go_on = threading.Event(), threading.Event()

    def on_read() -> None:
        started.set()
        go_on.wait(60)

    model.on_read = on_read  # type: ignore[method-assign]

    def ask(client: str | None, document: str | None) -> Callable[[], Completion]:
        job = engine.submit(CompletionRequest(prefix=CODE, client=client, document=document, max_tokens=2))
        return lambda: job.future.result(timeout=60)

    running = ask("editor", "a.py")
    started.wait(60)
    waiting = ask("editor", "a.py")
    newest = ask("editor", "a.py")
    others = [ask("editor", "b.py"), ask("other", "a.py"), ask(None, "a.py"), ask(None, "a.py"), ask("editor", None)]
    go_on.set()
    for superseded in (running, waiting):
        with pytest.raises(CancelledError):
            superseded()
    for job in (newest, *others):
        assert job()


def test_a_failure_does_not_end_the_engine(engine: Engine) -> None:
    job = engine.submit(CompletionRequest(prefix="\ud800"))
    with pytest.raises(UnicodeEncodeError):
        job.future.result(timeout=60)
    assert complete(engine)


def test_closing_gives_up_what_waits(model: Watched) -> None:
    engine = Engine(model)
    jobs = [engine.submit(CompletionRequest(prefix=CODE + str(number))) for number in range(20)]
    engine.close()
    results = [job.future.exception(timeout=60) for job in jobs]
    assert isinstance(results[-1], CancelledError)
    assert all(result is None or isinstance(result, CancelledError) for result in results)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(CompletionRequest(prefix="x"))
