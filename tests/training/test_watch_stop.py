"""When a run ends early."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.load import checked
from codelm.config.watch import Divergence, EarlyStop, Floor, Plateau, WatchConfig
from codelm.errors import UserError
from training.watch_stop import Stop, Stopper


def evaluations(*scores: float, match: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    """Rows of evaluations, one every 10 steps."""
    rows: list[dict[str, Any]] = [{"step": 10 * n, "valid_bits_per_byte": score} for n, score in enumerate(scores, 1)]
    for row, value in zip(rows, match, strict=False):
        row["valid_exact_match"] = value
    return rows


def losses(*values: float) -> list[dict[str, Any]]:
    """Rows of the training loss."""
    return [{"step": step, "loss": value} for step, value in enumerate(values, 1)]


def stopped(config: EarlyStop, rows: list[dict[str, Any]], steps: int = 100) -> tuple[Stop | None, int]:
    """Why a run stops, and the step of the row that stops it."""
    stopper = Stopper(config, steps)
    for row in rows:
        stopper.read(row)
        if stopper.stop:
            return stopper.stop, row["step"]
    return None, 0


@pytest.mark.parametrize(
    ("rule", "rows", "step"),
    [
        ({"evaluations": 2}, evaluations(3, 2, 2.1, 2.0), 40),
        ({"evaluations": 2}, evaluations(3, 2, 2.1, 1.9, 2.5, 1.8), 0),
        ({"evaluations": 1}, evaluations(2, 2), 20),
        ({"evaluations": 2, "min_delta": 0.1}, evaluations(3, 2.95, 2.89, 2.85, 2.8), 50),
        ({"evaluations": 2, "min_delta": 0.1}, evaluations(3, 2.9375, 2.875, 2.8125, 2.75), 0),
        ({"evaluations": 2, "score": "exact_match"}, evaluations(3, 2, 1, match=(0.5, 0.5, 0.25)), 30),
        ({"evaluations": 2, "score": "exact_match"}, evaluations(3, 4, 5, match=(0.1, 0.2, 0.3)), 0),
    ],
)
def test_a_plateau_is_so_many_evaluations_without_improvement(rule: dict[str, Any], rows: list[Any], step: int) -> None:
    why, when = stopped(EarlyStop(plateau=Plateau(**rule)), rows)
    assert when == step
    if why:
        assert why.rule == "plateau"
        assert f"at step {step}" in why.why


def test_small_improvements_add_up() -> None:
    """Measured from the last improvement, not from the evaluation before."""
    rule = EarlyStop(plateau=Plateau(evaluations=3, min_delta=0.1))
    assert stopped(rule, evaluations(3, 2.95, 2.9, 2.85, 2.8, 2.75, 2.7))[0] is None


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((4, 2, 3.1, 3.2, 3.3), 5),
        ((4, 2, 3.1, 3.2, 2.9, 3.1, 3.2), 0),
        ((4, 2, 3, 3, 3), 0),
        ((4, 2, math.nan, math.nan, math.nan), 5),
        ((4, 2, math.inf, 9, 9), 5),
    ],
)
def test_divergence_is_a_loss_that_stays_high(values: tuple[float, ...], step: int) -> None:
    why, when = stopped(EarlyStop(divergence=Divergence(factor=1.5, logged_steps=3)), losses(*values))
    assert when == step
    assert (why.rule if why else None) == ("divergence" if step else None)


@pytest.mark.parametrize(
    ("floor", "rows", "step"),
    [
        ({"value": 2.5, "share": 0.3}, evaluations(3, 2.8, 2.6, 2.4), 30),
        ({"value": 2.5, "share": 0.3}, evaluations(3, 2.4, 2.6, 2.6), 0),
        ({"value": 2.5, "share": 0.35}, evaluations(3, 2.8, 2.6, 2.5), 0),
        ({"value": 0.2, "share": 0.2, "score": "exact_match"}, evaluations(3, 2, match=(0.1, 0.15)), 20),
        ({"value": 0.2, "share": 0.2, "score": "exact_match"}, evaluations(3, 2, match=(0.2, 0.1)), 0),
    ],
)
def test_a_floor_is_to_be_reached_by_a_share_of_the_budget(floor: dict[str, Any], rows: list[Any], step: int) -> None:
    why, when = stopped(EarlyStop(floor=Floor(**floor)), rows)
    assert when == step
    assert (why.rule if why else None) == ("floor" if step else None)


def test_nothing_stops_a_run_by_default() -> None:
    assert stopped(EarlyStop(), evaluations(1, 9, 9, 9, 9, 9) + losses(1, *[99.0] * 50)) == (None, 0)


ROWS = st.lists(
    st.one_of(
        st.floats(0.1, 9).map(lambda value: {"loss": value}),
        st.tuples(st.floats(0.1, 9), st.floats(0, 1)).map(lambda s: {"valid_bits_per_byte": s[0], "valid_exact_match": s[1]}),
    ),
    max_size=40,
).map(lambda rows: [{"step": step, **row} for step, row in enumerate(rows, 1)])


@given(ROWS, st.data())
def test_a_resumed_run_decides_the_same(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """What it has logged, read back from its file, is all that the decision rests on."""
    rules = EarlyStop(
        plateau=Plateau(evaluations=3, min_delta=0.5, score=data.draw(st.sampled_from(["exact_match", "bits_per_byte"]))),
        divergence=Divergence(factor=2, logged_steps=3),
        floor=Floor(value=3, share=0.3),
    )
    cut = data.draw(st.integers(0, len(rows)))
    read_back = [json.loads(json.dumps(row)) for row in rows[:cut]]
    assert stopped(rules, read_back + rows[cut:]) == stopped(rules, rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0, "early_stop": {"plateau": {"evaluations": 2}}}, "need evaluations or checkpoint_steps"),
        ({"evaluation_places": 0, "early_stop": {"floor": {"value": 1, "score": "exact_match"}}}, "needs evaluation_places"),
        ({"early_stop": {"plateu": {}}}, "did you mean 'plateau'"),
    ],
)
def test_rules_without_a_score_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(settings, WatchConfig)
