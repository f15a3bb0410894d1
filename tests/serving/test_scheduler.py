"""Many requests at once, in one thread over one model."""

import sysconfig
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from serving.engine import CancelledError, Engine
from serving.job import Job
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest, StopReason, TriggerKind
from serving.speed import SIZES

SOURCE = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_text(encoding="utf-8")
CODE = "import os\n\n\ndef size(path):\n    return os.path."


def places(count: int, **options: Any) -> list[CompletionRequest]:
    """Cursors all over a file."""
    step = (len(SOURCE) - 400) // count
    cursors = range(200, 200 + count * step, step)
    return [CompletionRequest(prefix=SOURCE[:at], suffix=SOURCE[at:], max_tokens=16, max_lines=4, **options) for at in cursors]


def texts(jobs: list[Job]) -> list[Completion]:
    return [job.future.result(timeout=120) for job in jobs]


def a_token_a_millisecond(engine: Engine) -> None:
    """As if the model took so long."""
    speed = engine._scheduler.speed
    speed._ms = [float(size) for size in SIZES]
    speed.note = lambda tokens, ms: None  # type: ignore[method-assign]


def wait_until(true: Callable[[], object]) -> None:
    """For what the engine's thread does after it has answered."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.001)


def test_at_once_is_the_same_as_one_by_one(gguf: Path, start: Callable[..., Engine], same: Any) -> None:
    requests = places(16)
    alone = start(LlamaCpp(gguf), parallel=1)
    one_by_one = [alone.submit(request).future.result(timeout=120) for request in requests]
    together = start(LlamaCpp(gguf), parallel=8)
    at_once = texts([together.submit(request) for request in requests])
    alike = [same(*pair) for pair in zip(at_once, one_by_one, strict=True)]
    assert sum(alike) >= len(alike) - 1, "ties are rare"


def test_texts_are_written_in_the_same_batches(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    model.together = True
    engine = start(model, parallel=3)
    held = gate(model)
    jobs = [engine.submit(CompletionRequest(prefix=CODE + str(number), max_tokens=6)) for number in range(5)]
    held.wait()
    held.open()
    texts(jobs)
    assert max(len(batch) for batch in model.batches) == 3


def test_a_batch_is_no_larger_than_the_backend_takes(model: Any, start: Callable[..., Engine]) -> None:
    model.batch_tokens, model.batch_outputs = 20, 12
    engine = start(model, parallel=4)
    engine._scheduler.speculation._worth = lambda record, beside: 8  # type: ignore[method-assign]
    texts([engine.submit(request) for request in places(8)])
    assert max(sum(len(one.tokens) for one in batch) for batch in model.batches) <= 20
    assert max(sum(len(one.outputs) for one in batch) for batch in model.batches) <= 12


def test_a_document_is_found_again_after_others(engine: Engine, complete: Any) -> None:
    for number in range(5):
        complete(engine, f"# {number}\n" + CODE, document=f"{number}.py", max_tokens=4)
    for number in range(5):
        timings = complete(engine, f"# {number}\n" + CODE + "g", document=f"{number}.py", max_tokens=4).timings
        assert timings.prompt_tokens - timings.cached_tokens <= 3


def test_the_document_that_was_used_longest_ago_makes_room(gguf: Path, start: Callable[..., Engine], complete: Any) -> None:
    engine = start(LlamaCpp(gguf, sequences=2), parallel=1)
    bodies = {name: f"{name} = {name!r}\n" * 20 + CODE for name in ("alpha", "beta", "gamma")}

    def unread(name: str) -> int:
        timings = complete(engine, bodies[name], document=name, max_tokens=1).timings
        return int(timings.prompt_tokens - timings.cached_tokens)

    for name in ("alpha", "beta", "alpha", "gamma"):
        unread(name)
    assert unread("alpha") == 1
    assert unread("gamma") == 1
    assert unread("beta") > 20


def test_what_two_documents_begin_with_is_read_once(engine: Engine, model: Any, complete: Any) -> None:
    tail = "\n" + "def helper(value):\n    return value + 1\n" * 8  # the prompt begins with it
    complete(engine, "x = 1\n", tail, document="a.py", max_tokens=1)
    complete(engine, "import os\n", tail, document="b.py", max_tokens=1)
    timings = complete(engine, "while True:\n", tail, document="c.py", max_tokens=1).timings
    assert timings.cached_tokens > 32
    assert len(model.shared) == 2
    again = complete(engine, "x = 1\n", tail, document="a.py", max_tokens=1).timings
    assert again.prompt_tokens - again.cached_tokens == 1, "what was copied is still there"


def test_a_client_with_many_documents_does_not_starve_another(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model, parallel=2)
    held = gate(model)
    order: list[str] = []

    def ask(client: str, number: int) -> Job:
        request = CompletionRequest(prefix=CODE * 5 + str(number), client=client, document=f"{number}.py", max_tokens=4)
        job = engine.submit(request)
        job.future.add_done_callback(lambda _: order.append(client))
        return job

    jobs = [ask("many", number) for number in range(20)]
    held.wait()
    jobs.append(ask("one", 0))
    held.open()
    texts(jobs)
    assert order.index("one") <= 5, "those that had begun, and no more than its turn"


def test_prompts_of_two_clients_are_read_side_by_side(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    model.batch_tokens = 16
    engine = start(model, parallel=4)
    held = gate(model)
    first = [engine.submit(CompletionRequest(prefix=SOURCE[at : at + 900], client="a", max_tokens=0)) for at in (0, 1000, 2000)]
    held.wait()
    last = engine.submit(CompletionRequest(prefix=SOURCE[4000:4900], client="b", max_tokens=0))
    held.open()
    texts([last])
    assert not all(job.future.done() for job in first)
    texts(first)


def test_reading_ahead_makes_the_request_find_it_read(engine: Engine, complete: Any) -> None:
    request = CompletionRequest(prefix=CODE, suffix="\n", document="a.py", client="c")
    warmed = engine.warm(request).future.result(timeout=60)
    assert (warmed.text, warmed.timings.predicted_tokens) == ("", 0)
    timings = complete(engine, CODE, "\n", document="a.py", client="c").timings
    assert timings.prompt_tokens - timings.cached_tokens == 1
    assert engine.completed == 1, "reading ahead is not answering"


def test_reading_ahead_gives_way_at_once_and_goes_on_later(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    model.batch_tokens = 16
    engine = start(model)
    held = gate(model)
    hold = model.on_decode
    model.on_decode = lambda batch: hold(batch) if len(model.batches) > 1 else None  # the first batch has been read
    ahead = engine.warm(CompletionRequest(prefix=SOURCE[:1500], suffix="#", document="a.py"))
    held.wait()
    real = engine.submit(CompletionRequest(prefix=CODE, suffix="%", document="b.py", max_tokens=3))
    done_first: list[str] = []
    ahead.future.add_done_callback(lambda _: done_first.append("ahead"))
    real.future.add_done_callback(lambda _: done_first.append("real"))
    held.open()
    assert texts([ahead, real])[0].timings.cached_tokens > 8, "it did not begin anew"
    assert done_first == ["real", "ahead"]
    mixed = [batch for batch in model.batches if len(batch) > 1]
    assert not mixed


def test_a_request_interrupts_what_is_read_ahead_and_nothing_else(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model)
    first = gate(model)
    ahead = engine.warm(CompletionRequest(prefix=SOURCE, client="a"))
    first.wait()
    jobs = [engine.submit(CompletionRequest(prefix=SOURCE[:900], client="b", max_tokens=1))]
    second = gate(model)
    first.open()
    second.wait()
    assert model.interrupted == 1
    jobs.append(engine.submit(CompletionRequest(prefix=CODE, client="c", max_tokens=1)))
    second.open()
    assert [completion.stop_reason for completion in texts([*jobs, ahead])] == [StopReason.LENGTH] * 3
    assert model.interrupted == 1, "however often requests come, prompts are read"


@pytest.mark.parametrize("together", [True, False])
def test_short_texts_are_written_one_after_the_other_where_nothing_is_gained_by_more(
    model: Any, start: Callable[..., Engine], gate: Any, together: bool
) -> None:
    model.together = together
    engine = start(model, parallel=4)
    held = gate(model)
    jobs = [engine.submit(CompletionRequest(prefix="x = 1\n", client="first", max_tokens=4))]
    held.wait()
    jobs += [engine.submit(CompletionRequest(prefix="y = 2\n", client=str(number), max_tokens=4)) for number in range(3)]
    held.open()
    texts(jobs)
    assert (max(map(len, model.batches)) == 1) != together


def test_a_long_prompt_does_not_hold_up_a_short_one(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model)
    a_token_a_millisecond(engine)
    held = gate(model)
    long = engine.submit(CompletionRequest(prefix=SOURCE, client="a", max_tokens=1))
    held.wait()
    short = engine.submit(CompletionRequest(prefix="x = ", client="b", max_tokens=1))
    done: list[str] = []
    long.future.add_done_callback(lambda _: done.append("long"))
    short.future.add_done_callback(lambda _: done.append("short"))
    held.open()
    texts([long, short])
    assert done == ["short", "long"]


def test_prompts_are_read_in_larger_batches_while_there_is_one_client(
    model: Any, start: Callable[..., Engine], complete: Any
) -> None:
    engine = start(model)
    a_token_a_millisecond(engine)
    sizes = []
    for number, client in enumerate("aab", start=1):
        model.batches.clear()
        complete(engine, SOURCE[: 4000 * number], client=client, max_tokens=1)
        sizes.append(len(model.batches[0][0].tokens))
    assert sizes == [100, 100, 25]


def test_a_request_does_not_interrupt_itself(engine: Engine, model: Any, complete: Any) -> None:
    for number in range(50):
        complete(engine, f"# {number}\n" + CODE, max_tokens=0)
    assert not model.interrupted


def test_what_waits_does_not_interrupt_the_reading(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model, parallel=1)
    held = gate(model)
    reading = engine.submit(CompletionRequest(prefix=SOURCE, max_tokens=1))
    held.wait()
    waiting = engine.submit(CompletionRequest(prefix=CODE, max_tokens=1))
    engine._scheduler._interrupt.clear()
    ahead = engine.warm(CompletionRequest(prefix="x = 1\n"))
    waiting.cancel()
    held.open()
    texts([reading, ahead])
    assert not model.interrupted


def test_closing_interrupts_the_reading(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model)
    held = gate(model)
    job = engine.submit(CompletionRequest(prefix=SOURCE))
    held.wait()
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._scheduler._interrupt.is_set:
        time.sleep(0.001)
    held.open()
    closing.join(60)
    with pytest.raises(CancelledError):
        job.future.result(timeout=60)
    assert (model.interrupted, len(model.batches)) == (1, 1)


@pytest.mark.parametrize("slow", [True, False])
def test_a_long_batch_ends_when_nobody_waits_for_it(model: Any, start: Callable[..., Engine], gate: Any, slow: bool) -> None:
    engine = start(model)
    if slow:
        engine._scheduler.speed._ms = [100.0] * len(engine._scheduler.speed._ms)
    first = gate(model)
    job = engine.submit(CompletionRequest(prefix="y = 1\n", client="a", max_tokens=100))
    first.wait()
    other = engine.submit(CompletionRequest(prefix="x = ", client="b", max_tokens=1))
    second = gate(model)
    first.open()
    second.wait()
    assert not model.interrupted, "somebody waits for it"
    job.cancel()
    second.open()
    texts([other])
    assert model.interrupted == slow


def test_a_batch_leaves_off_when_a_budget_is_over(model: Any, start: Callable[..., Engine], complete: Any) -> None:
    engine = start(model)
    a_token_a_millisecond(engine)
    complete(engine, SOURCE, budget_ms=50.0)
    assert sum(len(one.tokens) for one in model.batches[0]) <= 50


def test_a_request_for_the_document_ends_what_is_read_ahead_of_it(engine: Engine, model: Any, gate: Any) -> None:
    held = gate(model)
    ahead = [engine.warm(CompletionRequest(prefix=CODE, document="a.py", client="c")) for _ in range(2)]
    held.wait()
    job = engine.submit(CompletionRequest(prefix=CODE, document="a.py", client="c", max_tokens=1))
    held.open()
    assert texts([job])
    for one in ahead:
        with pytest.raises(CancelledError):
            one.future.result(timeout=60)


def test_an_accepted_completion_is_gone_on_from_ahead(engine: Engine, model: Any, complete: Any) -> None:
    options = {"document": "a.py", "client": "c", "max_lines": 1, "max_tokens": 8}
    first = complete(engine, CODE, "\n", **options)
    ahead = engine.accepted(first.id)
    assert ahead
    made = ahead.future.result(timeout=60)
    model.batches.clear()
    found = complete(engine, CODE + first.text + "\n", "\n", **options)
    assert (found.text, model.batches) == (made.text, [])
    blanks = made.text[: len(made.text) - len(made.text.lstrip(" "))]
    assert complete(engine, CODE + first.text + "\n" + blanks, "\n", **options).text == made.text[len(blanks) :]
    complete(engine, CODE + first.text + "\nx", "\n", **options)
    assert model.batches, "another text is another request"
    assert engine.accepted("cmpl-unknown") is None


def test_candidates_share_the_prompt_and_differ(model: Any, start: Callable[..., Engine], complete: Any) -> None:
    engine = start(model, mixture=False)  # which knows how a repeated text goes on, and leaves no choice
    greedy = complete(engine, CODE * 4, "\n", document="a.py", max_tokens=12)
    for sequence in engine._scheduler._kv._sequences:
        engine._scheduler._kv.forget(sequence)
    model.batches.clear()
    completion = complete(engine, CODE * 4, "\n", document="a.py", max_tokens=12, candidates=5, seed=1)
    assert completion.text == greedy.text
    others = [other.text for other in completion.alternatives]
    assert 1 <= len(others) <= 4
    assert len({completion.text, *others}) == len(others) + 1
    assert all(text.strip() for text in others)
    assert model.tokens_read < 2 * completion.timings.prompt_tokens + 5 * 12
    assert len({completion.id, *(other.id for other in completion.alternatives)}) == len(others) + 1


def test_candidates_one_after_the_other_are_the_same(gguf: Path, start: Callable[..., Engine], complete: Any) -> None:
    found = []
    for parallel in (1, 4):
        engine = start(LlamaCpp(gguf), parallel=parallel)
        completion = complete(engine, CODE, max_tokens=6, candidates=3, seed=5)
        found.append((completion.text, len(completion.alternatives)))
    assert found[0] == found[1]


def test_a_failing_batch_fails_its_requests_alone(model: Any, start: Callable[..., Engine], complete: Any) -> None:
    engine = start(model, parallel=2)
    complete(engine, CODE, document="kept.py", max_tokens=1)
    reached, queued = threading.Event(), threading.Event()

    def break_down(batch: Any) -> None:
        reached.set()
        assert queued.wait(60)
        model.on_decode = lambda batch: None
        raise RuntimeError("out of memory")

    model.on_decode = break_down
    failing = engine.submit(CompletionRequest(prefix="x = 1\n" * 9, document="b.py"))
    assert reached.wait(60)
    requests = [CompletionRequest(prefix=CODE, suffix="\n", document=name, max_tokens=2) for name in ("c.py", "kept.py")]
    waiting = [engine.submit(request) for request in requests]
    queued.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.future.result(timeout=60)
    assert texts(waiting)[1].timings.cached_tokens > 0, "the others' sequences are whole"
    assert engine.failed == 1
    again = complete(engine, "x = 1\n" * 9, document="b.py", max_tokens=1)
    assert again.stop_reason is StopReason.LENGTH


def test_health_says_that_the_model_fails_until_it_works_again(engine: Engine, model: Any, complete: Any) -> None:
    def break_down(batch: Any) -> None:
        raise RuntimeError("out of memory")

    model.on_decode = break_down
    with pytest.raises(RuntimeError):
        complete(engine, CODE)
    assert engine.problem() == "the model failed: out of memory"
    model.on_decode = lambda batch: None
    assert complete(engine, CODE, max_tokens=1)
    assert engine.problem() is None


def test_a_short_budget_reads_a_short_prompt_and_the_long_one_later(engine: Engine, complete: Any) -> None:
    engine._scheduler.speed._ms[-1] = 64 * 10.0  # as if a token took 10 ms
    engine._scheduler.speed.note = lambda tokens, ms: None  # type: ignore[method-assign]
    options = {"document": "a.py", "client": "c", "max_tokens": 4}
    long = complete(engine, SOURCE, **options).timings.prompt_tokens
    short = complete(engine, SOURCE[::-1], budget_ms=3000.0, **options).timings.prompt_tokens
    assert short < 0.6 * long
    wait_until(lambda: engine._ahead)
    assert wait([job.future for job in list(engine._ahead.values())], timeout=60)
    later = complete(engine, SOURCE[::-1], budget_ms=3000.0, **options).timings
    assert later.prompt_tokens > short
    assert later.prompt_tokens - later.cached_tokens == 1


def test_nobody_waits_for_a_long_prompt_that_was_not_asked_for(engine: Engine, complete: Any) -> None:
    engine._scheduler.speed._ms[-1] = 64 * 1.0  # as if a token took 1 ms
    engine._scheduler.speed.note = lambda tokens, ms: None  # type: ignore[method-assign]
    options = {"client": "c", "max_tokens": 4, "trigger": TriggerKind.AUTOMATIC}
    long = complete(engine, SOURCE, **options, document=None).timings.prompt_tokens
    asked_for = complete(engine, SOURCE.upper(), **options | {"trigger": TriggerKind.INVOKED}, document="b.py").timings
    short = complete(engine, SOURCE[::-1], **options, document="a.py").timings.prompt_tokens
    assert short < 0.6 * min(long, asked_for.prompt_tokens)
    wait_until(lambda: engine._ahead)
    assert wait([job.future for job in list(engine._ahead.values())], timeout=60)
    later = complete(engine, SOURCE[::-1], **options, document="a.py").timings
    assert later.prompt_tokens > 1.5 * short
    assert later.prompt_tokens - later.cached_tokens == 1
    kept = [one.key for one in engine._scheduler._kv._sequences if one.key and one.key[0] == "a.py"]
    assert [divisor for _, _, divisor in kept] == [1], "the short prompt makes room"


def test_a_bracket_that_the_editor_closes_costs_nothing(engine: Engine, model: Any, complete: Any) -> None:
    complete(engine, SOURCE + "f", "\ng\n" * 20, document="a.py", max_tokens=1)
    timings = complete(engine, SOURCE + "f(", ")" + "\ng\n" * 20, document="a.py", max_tokens=1).timings
    assert timings.prompt_tokens - timings.cached_tokens <= 3
    assert not model.shared, "it is the same document at the same place"


def test_a_listener_that_fails_harms_nobody_else(engine: Engine, complete: Any) -> None:
    def listen(text: str) -> None:
        raise OSError("gone")

    request = CompletionRequest(prefix=CODE, max_tokens=4, temperature=1.0, seed=1)
    with pytest.raises(OSError, match="gone"):
        engine.submit(request, on_text=listen).future.result(timeout=60)
    assert complete(engine, CODE, max_tokens=2)


def test_a_line_of_a_megabyte(engine: Engine, complete: Any) -> None:
    completion = complete(engine, "x" * 2**20, "y" * 2**20, max_tokens=4)
    assert completion.timings.prompt_tokens <= engine.model.context_length


def test_ten_thousand_documents(gguf: Path, start: Callable[..., Engine]) -> None:
    """Whose requests are all there at once; nothing of them stays."""
    engine = start(LlamaCpp(gguf, sequences=4))
    jobs = [
        engine.submit(CompletionRequest(prefix="x", document=f"{number}.py", client="c", budget_ms=2000.0, max_tokens=1))
        for number in range(10_000)
    ]
    for job in jobs:
        assert job.future.result(timeout=120).stop_reason in (StopReason.LENGTH, StopReason.EOS, StopReason.DEADLINE)
    assert not engine._newest
    scheduler = engine._scheduler
    wait_until(lambda: not (len(scheduler._waiting) or scheduler._live))
    assert not len(scheduler._waiting)
    assert not scheduler._live
