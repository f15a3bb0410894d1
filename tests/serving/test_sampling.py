import math

import numpy as np
import pytest

from serving.sampling import Sampler

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def test_greedy_takes_the_best_and_says_its_probability() -> None:
    token, logprob = Sampler(0, 1, None).pick(LOGITS + 7)
    assert token == 0
    assert logprob == pytest.approx(math.log(0.5), abs=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    sampler = Sampler(1, 0.7, 0)
    drawn = [sampler.pick(LOGITS)[0] for _ in range(2000)]
    assert set(drawn) == {0, 1}
    assert drawn.count(0) / len(drawn) == pytest.approx(0.5 / 0.8, abs=0.05)


def test_temperature_flattens() -> None:
    hot, cold = Sampler(2, 1, 0), Sampler(0.1, 1, 0)
    assert [cold.pick(LOGITS)[0] for _ in range(100)].count(0) > 95
    assert {hot.pick(LOGITS)[0] for _ in range(500)} == {0, 1, 2, 3}


def test_a_seed_repeats() -> None:
    first, second = Sampler(1, 1, 5), Sampler(1, 1, 5)
    assert [first.pick(LOGITS) for _ in range(20)] == [second.pick(LOGITS) for _ in range(20)]


def test_the_probability_is_the_models_own_whatever_the_temperature() -> None:
    token, logprob = Sampler(3, 1, 1).pick(LOGITS)
    assert logprob == pytest.approx(float(LOGITS[token]), abs=1e-5)
