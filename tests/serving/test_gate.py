import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answers import Answers
from serving.gate import FEATURES, Gate, Line, features_of
from serving.request import Completion, CompletionRequest, StopReason, Timings, TriggerKind

TIMINGS = Timings(prompt_tokens=1, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
NUMBERS = st.floats(-100, 100)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    """Any gate."""
    count = len(FEATURES)
    row = st.lists(NUMBERS, min_size=count, max_size=count)
    probabilities, thresholds = draw(SHARES), draw(SHARES)
    size = st.lists(st.floats(0, 1), min_size=len(thresholds), max_size=len(thresholds))
    scores = st.lists(NUMBERS, min_size=len(probabilities), max_size=len(probabilities)).map(sorted)
    return Gate(
        features=FEATURES,
        mean=tuple(draw(row)),
        scale=tuple(draw(st.lists(st.floats(0.01, 100), min_size=count, max_size=count))),
        weights=tuple(draw(row)),
        bias=draw(NUMBERS),
        scores=tuple(draw(scores)),
        probabilities=tuple(probabilities),
        thresholds=tuple(thresholds),
        precisions=tuple(sorted(draw(size))),
        coverages=tuple(draw(size)),
    )


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """Any completion, also with numbers that are none."""
    numbers = st.floats(max_value=0, allow_nan=False)
    return Completion(
        id="cmpl-1",
        text=draw(st.text(max_size=40)),
        stop_reason=draw(st.sampled_from(StopReason)),
        logprobs=tuple(draw(st.lists(st.one_of(numbers, st.just(math.nan)), max_size=9))),
        timings=TIMINGS,
        end_logprob=draw(st.one_of(st.none(), numbers)),
        cache_weight=draw(st.one_of(st.none(), st.floats(0, 1))),
    )


def completion(text: str, *logprobs: float) -> Completion:
    return Completion(id="cmpl-1", text=text, stop_reason=StopReason.LINE, logprobs=logprobs, timings=TIMINGS)


SIMPLE = Gate(
    features=("mean",),
    mean=(-1.0,),
    scale=(1.0,),
    weights=(2.0,),
    bias=0.0,
    scores=(-4.0, 2.0),
    probabilities=(0.1, 0.7),
    thresholds=(0.1, 0.4, 0.6),
    precisions=(0.3, 0.5, 0.65),
    coverages=(1.0, 0.5, 0.1),
)


@given(gates(), completions(), st.text(max_size=40), st.text(max_size=40), st.sampled_from(["python", "go", None, "x"]))
def test_a_probability_is_one(gate: Gate, written: Completion, prefix: str, suffix: str, name: str | None) -> None:
    request = CompletionRequest(prefix=prefix, suffix=suffix, language=name)
    values = features_of(request, written)
    assert tuple(values) == FEATURES
    assert 0 <= gate.probability(values) <= 1
    assert 0 <= gate.judge(request, written, 0.5).confidence <= 1


@given(gates(), st.floats(-200, 200), st.floats(-200, 200))
def test_a_higher_score_is_never_less_probable(gate: Gate, one: float, other: float) -> None:
    from serving.gate import interpolated

    low, high = sorted((one, other))
    assert interpolated(low, gate.scores, gate.probabilities) <= interpolated(high, gate.scores, gate.probabilities) + 1e-12


@given(gates(), st.lists(st.floats(0, 1), min_size=2).map(sorted))
def test_a_higher_precision_never_shows_more(gate: Gate, asked: list[float]) -> None:
    thresholds = [gate.threshold(precision) for precision in asked]
    for lower, higher in pairwise(thresholds):
        assert higher is None or (lower is not None and lower <= higher)


@given(gates())
def test_it_survives_its_json(gate: Gate) -> None:
    assert Gate.from_json(gate.model_dump_json()) == gate


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"features": ["none"]}, "unknown features none"),
        ({"weights": []}, "different lengths"),
        ({"scale": [0.0]}, "scale"),
        ({"thresholds": [0.4, 0.1, 0.6]}, "does not rise"),
        ({"probabilities": [0.1, 1.7]}, "outside 0 to 1"),
        ({"schema_version": 2}, "less than or equal to 1"),
        ({"bias": "NaN"}, "finite"),
    ],
)
def test_what_is_no_gate_hides_nothing(change: dict[str, object], told: str) -> None:
    text = json.dumps(SIMPLE.model_dump() | change)
    with pytest.raises(ValueError, match=told):
        Gate.from_json(text)
    assert Answers(text, precision=1.0).gate is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_junk_is_no_gate(text: str) -> None:
    assert Answers(text).gate is None


async def finished(answers: Answers, written: Completion, **options: object) -> Completion:
    return await answers.finish(CompletionRequest(prefix="x", trigger=TriggerKind.AUTOMATIC, **options), written)  # type: ignore[arg-type]


def test_what_is_hidden() -> None:
    import asyncio

    sure, unsure = completion("good", -0.1), completion("bad", -4.0)

    def shown(answers: Answers, written: Completion, **options: object) -> bool:
        return asyncio.run(finished(answers, written, **options)).shown

    gate = SIMPLE.model_dump_json()
    assert [shown(Answers(gate, 0.6), one) for one in (sure, unsure)] == [True, False]
    assert [shown(Answers(gate), one) for one in (sure, unsure)] == [True, True], "no precision is asked for"
    assert [shown(Answers(gate), one, precision=0.6) for one in (sure, unsure)] == [True, False]
    assert [shown(Answers(gate, 0.6), one, precision=0.0) for one in (sure, unsure)] == [True, True]
    assert [shown(Answers(gate, 0.9), one) for one in (sure, unsure)] == [False, False], "out of reach"
    assert [shown(Answers(None, 0.6), one) for one in (sure, unsure)] == [True, True], "no gate"
    asked_for = CompletionRequest(prefix="x", trigger=TriggerKind.INVOKED)
    judged = asyncio.run(Answers(gate, 0.9).finish(asked_for, unsure))
    assert judged.shown
    assert judged.confidence == pytest.approx(0.1)
    held_back = asyncio.run(finished(Answers(gate, 0.6), unsure))
    assert held_back.confidence == pytest.approx(0.1)
    assert held_back.hidden_by == "precision"


def test_without_log_probabilities_nothing_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    answers = Answers(SIMPLE.model_dump_json(), 0.6)
    unknown = replace(completion("text", -4.0), logprobs=())
    assert answers.health()["gate"]["reachable"]
    assert asyncio.run(finished(answers, replace(unknown, text=""))).right is not None, "there is nothing to judge"
    assert answers.health()["gate"]["reachable"]
    for _ in range(2):
        assert asyncio.run(finished(answers, unknown)).shown
    assert not answers.health()["gate"]["reachable"]
    assert len(caplog.records) == 1


def test_what_is_unknown_counts_as_the_mean() -> None:
    gate = SIMPLE.model_copy(update={"features": ("end",)})
    assert gate.score({"end": math.nan}) == gate.score({}) == gate.score({"end": -1.0}) == 0.0


@pytest.mark.parametrize(
    ("before", "language", "inside"),
    [
        ("x = 1  # see", "python", "comment"),
        ("x = '# see", "python", "string"),
        ("x = '#' + y", "python", ""),
        (r"x = 'it\'s", "python", "string"),
        ("x = 1 // see", "go", "comment"),
        ("x = 1 // 2", "python", ""),
        ("  * of the", "java", "comment"),
        ("  * of the", "python", ""),
        ("", "python", ""),
    ],
)
def test_comments_and_strings(before: str, language: str, inside: str) -> None:
    assert Line(before, "", language).inside == inside
