from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serving.engine import CancelledError, Engine
from serving.request import Completion, CompletionRequest, StopReason, Timings

CODE = "import os\n\n\ndef size(path):\n    return os.path."
SUFFIX = "\n\n\ndef name(path):\n    return os.path.basename(path)\n"


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


def test_a_deadline_ends_reading_and_writing(engine: Engine, model: Any) -> None:
    assert complete(engine, budget_ms=0.001).stop_reason is StopReason.DEADLINE
    assert not model.batches
    assert complete(engine, budget_ms=60_000).stop_reason is not StopReason.DEADLINE


def test_what_is_streamed_is_the_text(engine: Engine) -> None:
    for seed in range(5):
        pieces: list[str] = []
        request = CompletionRequest(prefix=CODE, max_lines=8, temperature=1.0, seed=seed)
        completion = engine.submit(request, on_text=pieces.append).future.result(timeout=60)
        assert "".join(pieces) == completion.text
        assert all(pieces)


def test_cancelling_ends_the_reading_of_a_prompt(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    model.batch_tokens = 16
    engine = start(model)
    held = gate(model)
    job = engine.submit(CompletionRequest(prefix=CODE * 20))
    held.wait()
    job.cancel()
    with pytest.raises(CancelledError):
        job.future.result(timeout=60)
    held.open()
    timings = engine.submit(CompletionRequest(prefix=CODE, max_tokens=0)).future.result(timeout=60).timings
    assert len(model.batches) == 1 + -(-(timings.prompt_tokens - timings.cached_tokens) // 16)
    assert (engine.completed, engine.cancelled) == (1, 1)


def test_the_newest_request_of_a_client_for_a_document_wins(engine: Engine, model: Any, gate: Any) -> None:
    held = gate(model)

    def ask(client: str | None, document: str | None) -> Callable[[], Completion]:
        job = engine.submit(CompletionRequest(prefix=CODE, client=client, document=document, max_tokens=2))
        return lambda: job.future.result(timeout=60)

    running = ask("editor", "a.py")
    held.wait()
    waiting = ask("editor", "a.py")
    newest = ask("editor", "a.py")
    others = [ask("editor", "b.py"), ask("other", "a.py"), ask(None, "a.py"), ask(None, "a.py"), ask("editor", None)]
    held.open()
    for superseded in (running, waiting):
        with pytest.raises(CancelledError):
            superseded()
    for job in (newest, *others):
        assert job()


def test_what_is_typed_along_a_suggestion_leaves_what_is_read_ahead(engine: Engine, model: Any, gate: Any) -> None:
    shown = complete(engine, document="a.py", client="c")
    request = CompletionRequest(prefix=CODE, suffix=SUFFIX, document="a.py", client="c")
    engine.suggestions.remember(request, replace(shown, text="getsize(path)"))
    held = gate(model)
    ahead = engine.warm(replace(request, prefix=CODE * 2))
    held.wait()
    assert engine.submit(replace(request, prefix=CODE + "get")).future.result(timeout=60).text == "size(path)"
    held.open()
    assert ahead.future.result(timeout=60)


def test_a_failure_does_not_end_the_engine(engine: Engine) -> None:
    job = engine.submit(CompletionRequest(prefix="\ud800"))
    with pytest.raises(UnicodeEncodeError):
        job.future.result(timeout=60)
    assert complete(engine)


def test_closing_gives_up_what_waits(engine: Engine) -> None:
    jobs = [engine.submit(CompletionRequest(prefix=CODE + str(number))) for number in range(20)]
    engine.close()
    results = [job.future.exception(timeout=60) for job in jobs]
    assert isinstance(results[-1], CancelledError)
    assert all(result is None or isinstance(result, CancelledError) for result in results)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(CompletionRequest(prefix="x"))


def test_a_failing_mixer_fails_its_request_alone(model: Any, start: Callable[..., Engine]) -> None:
    class Broken:
        def begin(self, request: CompletionRequest, prompt_ids: list[int]) -> "Broken":
            return self

        def mix(self, logprobs: Any, context: list[int]) -> Any:
            if len(context) % 2:
                raise ValueError("odd")
            return logprobs

        def draft(self, context: list[int], limit: int) -> list[int]:
            raise ValueError("never")

    engine = start(model, mixture=Broken())
    with pytest.raises(ValueError, match="odd"):
        complete(engine)
    assert complete(engine, max_tokens=0)
    assert engine.problem() is None


def test_what_is_mixed_in_is_written_and_counts_for_confidence(model: Any, start: Callable[..., Engine]) -> None:
    """An opinion that is sure of the prompt's tokens, one after the other."""

    class Sure:
        def begin(self, request: CompletionRequest, prompt_ids: list[int]) -> "Sure":
            self.prompt = prompt_ids
            return self

        def mix(self, logprobs: Any, context: list[int]) -> Any:
            mixed = logprobs - 1e4
            mixed[self.prompt[2 + len(context) - len(self.prompt)]] = 0
            return mixed

        def draft(self, context: list[int], limit: int) -> list[int]:
            at = 2 + len(context) - len(self.prompt)
            return self.prompt[at : at + limit]

    engine = start(model, mixture=Sure(), healing=False)
    completion = complete(engine, max_tokens=8)
    assert completion.text == SUFFIX[: len(completion.text)]
    assert completion.confidence == 1
    assert completion.timings.accepted_tokens == completion.timings.drafted_tokens > 0


def test_it_tells_where_it_computes(model: Any, start: Callable[..., Engine]) -> None:
    model.device = "cuda:1"
    assert start(model).facts()["device"] == "cuda:1"
