"""The cap on languages, and the mixture weights."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.corpus import Balance
from codelm.corpus.balance import balance, weights

FILES = st.lists(st.tuples(st.sampled_from(["C", "Go", "Python"]), st.integers(0, 1000)), max_size=60)


def amounts(languages: list[str], sizes: list[int], keep: np.ndarray) -> dict[str, int]:
    found = dict.fromkeys(languages, 0)
    for language, size, kept in zip(languages, sizes, keep, strict=True):
        found[language] += size if kept else 0
    return found


def many(python: int, c: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Files of 100 bytes."""
    languages = ["Python"] * python + ["C"] * c
    return languages, np.full(len(languages), 100), [f"repo/{i}" for i in range(len(languages))]


def test_the_main_language_is_cut_down_to_its_share() -> None:
    languages, sizes, keys = many(800, 200)
    found = balance(languages, sizes, keys, Balance(max_language_share=0.7), seed=0)
    left = amounts(languages, list(sizes), found.keep)
    assert left["C"] == 20_000
    # 0.7 of all that is left, and not a file less than needed: 20000 · 0.7 / 0.3 = 46666
    assert left["Python"] == 46_600
    assert len(found.warnings) == 1
    assert "Python was 80% of the bytes and is cut down to 70%: 334 of its 800 files" in found.warnings[0]


def test_nothing_happens_below_the_cap() -> None:
    languages, sizes, keys = many(60, 40)
    found = balance(languages, sizes, keys, Balance(max_language_share=0.7), seed=0)
    assert found.keep.all()
    assert not found.warnings


def test_a_language_alone_is_nothing_to_speak_of() -> None:
    found = balance(*many(10, 0), Balance(max_language_share=0.7, max_dropped=0.5), seed=0)
    assert found.keep.all()
    assert found.warnings == []


def test_too_much_to_drop_leaves_it_whole_and_says_so() -> None:
    languages, sizes, keys = many(900, 100)
    found = balance(languages, sizes, keys, Balance(max_language_share=0.7, max_dropped=0.5), seed=0)
    assert found.keep.all()
    assert len(found.warnings) == 1
    assert "stays whole" in found.warnings[0]
    assert "balance.max_language_share" in found.warnings[0]


def test_a_language_never_goes_altogether() -> None:
    languages, sizes, keys = many(10, 0)
    assert balance(languages, sizes, keys, Balance(max_language_share=0.7, max_dropped=1), seed=0).keep.all()


def test_two_languages_above_the_cap() -> None:
    languages = ["A"] * 40 + ["B"] * 40 + ["C"] * 15 + ["D"] * 15
    found = balance(languages, np.ones(110, dtype=int), [str(i) for i in range(110)], Balance(max_language_share=0.3), seed=0)
    # two at the level c = 0.3 · (2 c + 30) = 22.5
    assert amounts(languages, [1] * 110, found.keep) == {"A": 22, "B": 22, "C": 15, "D": 15}


def test_the_choice_hangs_on_seed_and_key_alone() -> None:
    languages, sizes, keys = many(800, 200)
    found = balance(languages, sizes, keys, Balance(), seed=0)
    order = list(range(1000))
    random.Random(1).shuffle(order)
    shuffled = balance([languages[i] for i in order], sizes[order], [keys[i] for i in order], Balance(), seed=0)
    assert (shuffled.keep == found.keep[order]).all()
    other = balance(languages, sizes, keys, Balance(), seed=1)
    assert (other.keep != found.keep).any()


@given(FILES, st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 3))
def test_no_language_above_its_share_unless_it_says_so(
    files: list[tuple[str, int]], share: float, max_dropped: float, seed: int
) -> None:
    languages, sizes = [language for language, _ in files], [size for _, size in files]
    config = Balance(max_language_share=share, max_dropped=max_dropped)
    found = balance(languages, np.array(sizes, dtype=np.int64), [str(i) for i in range(len(files))], config, seed)
    before = amounts(languages, sizes, np.ones(len(files), dtype=bool))
    after = amounts(languages, sizes, found.keep)
    total = sum(after.values())
    for language, left in after.items():
        if before[language]:
            assert 1 - left / before[language] <= max_dropped + 1e-9
            assert left > 0
        whole = any(warning.startswith(f"{language} is ") for warning in found.warnings)
        assert left <= share * total + 1e-6 or whole or len(after) == 1
        assert left == before[language] or any(warning.startswith(f"{language} was ") for warning in found.warnings)


def test_weights_of_the_paper() -> None:
    assert weights({"a": 100, "b": 300}, 1) == {"b": 0.75, "a": 0.25}
    assert weights({"a": 100, "b": 300}, 0) == {"a": 0.5, "b": 0.5}
    half = weights({"a": 100, "b": 400}, 0.5)
    assert half == pytest.approx({"b": 2 / 3, "a": 1 / 3})
    assert weights({}, 0.5) == {}
    assert weights({"a": 0, "b": 1}, 0) == {"b": 1.0}


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10**12), min_size=1), st.floats(0, 1))
def test_weights_sum_to_one_and_keep_the_order(counts: dict[str, int], alpha: float) -> None:
    found = weights(counts, alpha)
    assert math.isclose(sum(found.values()), 1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all((found[a] >= found[b]) for a in counts for b in counts if counts[a] >= counts[b])
