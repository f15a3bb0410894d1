"""Measures and their confidence intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.evaluation.measures import edit_similarity, is_exact, ratio, share
from codelm.evaluation.places import Place


def test_white_space_at_the_end_of_a_line_does_not_count() -> None:
    place = Place("", "abcd", " \n")
    assert is_exact("abcd  ", place)
    assert not is_exact(" abcd", place)
    assert edit_similarity("abcd ", place) == 1
    assert edit_similarity("abXd", place) == 0.75
    assert edit_similarity("", place) == 0


def test_wilson_by_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    for hits, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = share([True] * hits + [False] * (count - hits))
        assert found == pytest.approx((hits / count, low, high), abs=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_a_share_lies_in_its_interval(hits: list[bool]) -> None:
    value, low, high = share(hits)
    assert 0 <= low <= value <= high <= 1


def test_a_ratio_is_that_of_the_sums_and_its_interval_that_of_resampling() -> None:
    assert ratio([1, 5], [1, 2]).value == 2
    assert ratio([3.0], [2]) == (1.5, 1.5, 1.5)
    values = np.random.default_rng(0).normal(10, 2, 400)
    value, low, high = ratio(values, np.ones(400))
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)  # 2σ/√n on either side
    assert ratio(values, np.ones(400)) == (value, low, high)
