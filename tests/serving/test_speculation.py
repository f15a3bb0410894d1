import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codelm.errors import UserError
from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.request import CompletionRequest, SourceFile
from serving.speculation import LONGEST, RETRY, DraftModel, EarlierLookup, EarlierTexts, PromptLookup, Speculation
from serving.speed import SIZES, Speed

CODE = (
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n"
    "    def move(self, x, y):\n        self.x += x\n        self.y += y\n"
)


def test_what_followed_follows_again() -> None:
    lookup = PromptLookup()
    assert lookup.draft([1, 2, 3, 4, 5, 1, 2], 3) == [3, 4, 5]
    assert lookup.draft([1, 2, 3, 4, 5, 1, 2, 9], 3) == []
    assert lookup.draft([1, 2, 3, 4, 5, 1, 2, 9, 4, 5], 3) == [1, 2, 9]


def test_the_longest_match_wins_then_the_latest() -> None:
    assert PromptLookup().draft([7, 1, 2, 30, 8, 1, 2, 40, 7, 1, 2], 1) == [30]
    assert PromptLookup().draft([7, 1, 2, 30, 7, 1, 2, 40, 7, 1, 2], 1) == [40]


def test_a_loop_goes_on() -> None:
    assert PromptLookup().draft([1, 2, 1, 2, 1, 2], 2) == [1, 2]
    assert PromptLookup().draft([5, 5, 5], 4) == [5]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, LONGEST))
def test_a_draft_is_what_stands_there(context: list[int], limit: int) -> None:
    lookup = PromptLookup()
    for end in range(0, len(context), 7):
        lookup.draft(context[:end], limit)
    draft = lookup.draft(context, limit)
    assert len(draft) <= limit
    assert draft == PromptLookup().draft(context, limit), "however often it was asked before"
    pairs = [context[at : at + 2] for at in range(len(context) - 2)]
    assert bool(draft) == (len(context) >= 3 and context[-2:] in pairs)


def test_an_earlier_text_goes_on_as_it_did() -> None:
    lookup = EarlierLookup([(1, 2, 3, 4), (7, 2, 3, 5)])
    assert lookup.draft([9, 2, 3], 4) == [5], "the latest of equals, and nothing beyond its end"
    assert lookup.draft([1, 2, 3], 4) == [4], "the longest match"
    assert lookup.draft([3, 4], 4) == [], "at its end it has no more to say"
    assert lookup.draft([4, 7], 4) == [], "a text is not the beginning of the next one"


def test_of_each_document_the_last_texts_are_kept() -> None:
    texts = EarlierTexts()
    for number in range(EarlierTexts.TEXTS + 2):
        texts.note("a.py", [0, number, number], 2)
    texts.note("a.py", [0, 5, 5], 2)
    of_a = texts.of("a.py")
    assert len(of_a) == EarlierTexts.TEXTS
    assert of_a[0] == (0, 2, 2) and of_a[-1] == (0, 5, 5), "the one that came again is the latest"
    for number in range(EarlierTexts.DOCUMENTS):
        texts.note(number, [1], 1)
    assert texts.of("a.py") == ()
    assert texts.of(0) == ((1,),)


def speed(**ms: float) -> Speed:
    return Speed({size: ms.get(f"of_{size}", float(size)) for size in SIZES})


class Always:
    def __init__(self) -> None:
        self.asked = 0

    def draft(self, context: list[int], limit: int) -> list[int]:
        self.asked += 1
        return [1] * limit


def test_drafts_are_made_while_they_pay() -> None:
    """Eight tokens at once for the price of two: worth it when they are right, and not when they are wrong."""
    speculation = Speculation(speed(of_1=1, of_2=1.2, of_4=1.5, of_8=2, of_16=4))
    drafter = Always()
    for _ in range(50):
        draft = speculation.draft({"a": drafter}, [], LONGEST, 0)
        speculation.checked(draft, len(draft.tokens), False)
    assert len(draft.tokens) >= 7
    for _ in range(200):
        speculation.checked(speculation.draft({"a": drafter}, [], LONGEST, 0), 0, True)
    drafter.asked = 0
    for _ in range(10 * RETRY):
        speculation.checked(speculation.draft({"a": drafter}, [], LONGEST, 0), 0, True)
    assert drafter.asked == 10, "rarely again"
    for _ in range(40 * RETRY):
        draft = speculation.draft({"a": drafter}, [], LONGEST, 0)
        speculation.checked(draft, len(draft.tokens), False)
    assert len(draft.tokens) > 2, "it comes back"


def test_nothing_pays_where_each_token_costs_the_same() -> None:
    speculation = Speculation(speed())
    assert not speculation.draft({"a": Always()}, [], LONGEST, 0).tokens


def test_the_next_drafter_is_asked_when_the_first_has_nothing() -> None:
    class Never:
        def draft(self, context: list[int], limit: int) -> list[int]:
            return []

    speculation = Speculation(speed(of_2=1, of_4=1, of_8=1, of_16=1))
    assert speculation.draft({"a": Never(), "b": Always()}, [], 4, 0).name == "b"


@pytest.fixture(scope="module")
def engines(gguf: Path) -> Any:
    """One that never drafts, and one that always tries to, with both kinds of drafts."""
    plain, eager = LlamaCpp(gguf), LlamaCpp(gguf)
    without, with_drafts = Engine(plain), Engine(eager, draft_model=DraftModel(LlamaCpp(gguf, sequences=2), eager))
    without._scheduler._drafters = lambda request, plan: {}  # type: ignore[method-assign]
    with_drafts._scheduler.speculation._worth = lambda record, beside: 5  # type: ignore[method-assign]
    yield without, with_drafts
    without.close()
    with_drafts.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(end=st.integers(10, len(CODE)), extra=st.text(st.sampled_from("self.xy =+()\n:"), max_size=12), lines=st.integers(1, 4))
def test_the_text_is_the_same_with_and_without(
    engines: tuple[Engine, Engine], same: Any, complete: Any, end: int, extra: str, lines: int
) -> None:
    without, with_drafts = (
        complete(engine, CODE[:end] + extra, CODE[end:], max_tokens=24, max_lines=lines) for engine in engines
    )
    assert without.timings.accepted_tokens == 0
    same(with_drafts, without)


def test_drafts_are_counted(engines: tuple[Engine, Engine], complete: Any) -> None:
    timings = complete(engines[1], CODE * 3 + CODE[:60], "", max_tokens=24, max_lines=8).timings
    assert timings.drafted_tokens >= timings.accepted_tokens > 0, "the draft model is the model itself"
    assert complete(engines[1], CODE, "", temperature=1.0, seed=1).timings.drafted_tokens == 0


def test_a_draft_with_other_tokens_is_refused(gguf: Path, tmp_path: Path) -> None:
    model = LlamaCpp(gguf, sequences=1)
    data, sha = gguf.read_bytes(), model.metadata.tokenizer_sha256.encode()
    (tmp_path / "draft.gguf").write_bytes(data.replace(sha, sha[::-1]))
    draft = LlamaCpp(tmp_path / "draft.gguf", sequences=1)
    with pytest.raises(UserError, match="has another tokenizer"):
        DraftModel(draft, model)
    draft.close()
    model.close()


def test_a_draft_model_reads_what_is_new(model: Any) -> None:
    draft = DraftModel(model, model)
    ids = model.encode(CODE)
    first = draft.draft(ids, 4)
    model.batches.clear()
    assert draft.draft([*ids, *first[:2]], 4)[:2] == first[2:]
    assert model.tokens_read <= 2 + 4
    assert len(draft.draft(ids * 20, 4)) == 4, "of a context longer than its own it reads the end"
    draft.close()


def test_a_failing_draft_does_no_harm(model: Any, start: Callable[..., Engine], complete: Any, gguf: Path) -> None:
    broken = LlamaCpp(gguf, sequences=1)
    broken.decode = lambda batch: 1 / 0  # type: ignore[method-assign, assignment]
    engine = start(model, draft_model=DraftModel(broken, model))
    engine._scheduler.speculation._worth = lambda record, beside: 5  # type: ignore[method-assign]
    assert complete(engine, "def f(x):\n    return ", max_tokens=8).timings.predicted_tokens
    assert engine.problem() is None


def test_speed_is_what_was_measured_and_follows_what_is_seen() -> None:
    known = speed(of_64=32)
    assert known.ms(1) == 1
    assert known.ms(3) == 3
    assert known.ms(112) == 48
    assert known.tokens_within(40) == 80
    assert known.tokens_within(4.5) == 4
    assert known.tokens_within(0.1) == 1
    for _ in range(200):
        known.note(64, 64)
    assert known.prefill == pytest.approx(1, rel=0.05)
    before = known.ms(1)
    known.note(1, 1e9)
    assert known.ms(1) < 2 * before, "one slow batch says little"


def test_a_request_without_a_draft_is_a_request(engines: tuple[Engine, Engine]) -> None:
    job = engines[1].submit(CompletionRequest(prefix="x", max_tokens=1))
    assert job.future.result(timeout=60).timings.drafted_tokens == 0


def eager(engine: Engine, *names: str) -> dict[str, int]:
    """Has an engine try these drafters' guesses always and no others; tells how many tokens of each were right."""
    accepted = dict.fromkeys(names, 0)
    drafters, checked = engine._scheduler._drafters, engine._scheduler.speculation.checked

    def count(draft: Any, right: int, wrong: bool) -> None:
        if draft.tokens:
            accepted[draft.name] += right
        checked(draft, right, wrong)

    engine._scheduler._drafters = lambda *of: {  # type: ignore[method-assign]
        name: drafter for name, drafter in drafters(*of).items() if name in names
    }
    engine._scheduler.speculation._worth = lambda record, beside: 5  # type: ignore[method-assign]
    engine._scheduler.speculation.checked = count  # type: ignore[method-assign]
    return accepted


def test_a_text_that_was_not_taken_is_tried_again(model: Any, start: Callable[..., Engine], complete: Any, same: Any) -> None:
    """The user goes another way and comes back: what was written before drafts, in its own document only."""
    engine = start(model, mixture=False)
    accepted = eager(engine, "earlier")
    asked = {"max_tokens": 16, "document": "a.py", "client": "c"}
    first = complete(engine, CODE, "", **asked)
    assert first.timings.drafted_tokens == 0, "it is the first"
    complete(engine, CODE, "", **asked | {"document": "b.py"})
    complete(engine, CODE, "", **asked | {"client": "d"})
    assert accepted == {"earlier": 0}
    again = complete(engine, CODE, "", **asked)
    assert accepted["earlier"] > 0
    assert again.timings.predicted_tokens == first.timings.predicted_tokens
    same(again, first)


def test_a_text_that_was_given_up_is_tried_again(model: Any, start: Callable[..., Engine], gate: Any) -> None:
    engine = start(model, mixture=False)
    accepted = eager(engine, "earlier")
    request = CompletionRequest(prefix=CODE, max_tokens=16, document="a.py", client="c")
    written = threading.Event()
    model.on_decode = lambda batch: len(model.batches) > 4 and written.set()
    job = engine.submit(request)
    assert written.wait(60)
    job.cancel()
    model.on_decode = lambda batch: None
    engine.submit(request).future.result(timeout=60)
    assert accepted["earlier"] > 0


def test_without_the_mixture_neighbours_draft_and_change_nothing(
    gguf: Path, start: Callable[..., Engine], complete: Any, same: Any
) -> None:
    plain, engine = start(LlamaCpp(gguf), mixture=False), start(LlamaCpp(gguf), mixture=False)
    eager(plain)
    accepted = eager(engine, "mixture")
    asked = {"max_tokens": 24, "max_lines": 4, "document": "a.py", "client": "c"}
    alone = complete(plain, CODE, "", **asked)
    sibling = SourceFile(path="b.py", text=f"{CODE}{alone.text}\n" * 3)
    complete(engine, CODE, "", files=(sibling,), **asked)
    engine.contexts.mixers.wait()
    assert same(complete(engine, CODE, "", files=(sibling,), **asked), alone)
    assert accepted["mixture"] > 0
