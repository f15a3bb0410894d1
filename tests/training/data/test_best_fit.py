"""Bin packing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.best_fit import best_fit_decreasing


def one_by_one(sizes: list[int], capacity: int) -> list[list[int]]:
    """Best fit decreasing as it is defined."""
    bins: list[list[int]] = []
    for size in sorted(sizes, reverse=True):
        fitting = [one for one in bins if sum(one) + size <= capacity]
        if fitting:
            max(fitting, key=sum).append(size)
        else:
            bins.append([size])
    return bins


@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=60))))
def test_all_at_once_is_one_by_one(drawn: tuple[int, list[int]]) -> None:
    capacity, sizes = drawn
    bin_of, bins = best_fit_decreasing(np.array(sizes, dtype=np.int64), capacity)
    found = [[size for size, at in zip(sizes, bin_of, strict=True) if at == number] for number in range(bins)]
    assert all(0 < sum(one) <= capacity for one in found)
    # which of two bins that are equally full is taken does not matter
    assert sorted(map(sum, found)) == sorted(map(sum, one_by_one(sizes, capacity)))


def test_a_million_documents() -> None:
    random = np.random.default_rng(0)
    sizes = np.minimum(random.lognormal(6, 1.5, size=1_000_000).astype(np.int64) + 1, 2049)
    bin_of, bins = best_fit_decreasing(sizes, 2049)
    filled = np.bincount(bin_of, weights=sizes, minlength=bins)
    assert filled.max() <= 2049
    assert 1 - sizes.sum() / (bins * 2049) < 0.001
