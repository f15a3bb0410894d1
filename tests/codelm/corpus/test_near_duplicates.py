"""Near-duplicates against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.corpus import Dedup
from codelm.corpus.near_duplicates import (
    Cache,
    Signatures,
    buckets,
    chance,
    drop_near_duplicates,
    jaccard,
    runs,
    s_curve,
    shingles,
    signature,
    suspects,
)
from codelm.lexemes import Hashes, lexemes

CONFIG = Dedup()
GOLDEN = [285261799, 226803346, 465390415, 411961891]


def signed(sets: list[Hashes], config: Dedup = CONFIG) -> Signatures:
    data = b"".join(signature(one, config) for one in sets)
    return np.frombuffer(data, dtype="<u4").reshape(len(sets), config.bands * config.rows)


def drop(sets: list[Hashes], order: list[int] | None = None, config: Dedup = CONFIG) -> dict[int, tuple[int, float]]:
    return drop_near_duplicates(order or range(len(sets)), signed(sets, config), sets.__getitem__, config)


def random_set(seed: int, size: int) -> Hashes:
    return np.unique(np.random.default_rng(seed).integers(0, 1 << 63, size, dtype=np.uint64))


def text(*changes: int) -> bytes:
    """Two hundred lines, some of them changed."""
    return b"\n".join(b"total_%d = f(%d, %s)" % (i, i, b"changed" if i in changes else b"x") for i in range(200))


def shingles_of(data: bytes) -> Hashes:
    return shingles(lexemes(data).hashes, CONFIG)


# --- the parts


def test_shingles_are_the_runs_of_five_lexemes() -> None:
    words = lexemes(b"a b c d e f a b c d e")
    assert len(runs(words.hashes, CONFIG)) == 7
    assert len(shingles(words.hashes, CONFIG)) == 6
    assert np.all(np.diff(shingles(words.hashes, CONFIG)) > 0)
    assert set(shingles_of(b"a  b\n\tc d e").tolist()) <= set(shingles(words.hashes, CONFIG).tolist())


def test_short_texts_have_one_shingle_and_empty_ones_none() -> None:
    assert len(shingles_of(b"a b")) == len(shingles_of(b"a")) == 1
    assert shingles_of(b"a b").tolist() != shingles_of(b"a c").tolist()
    assert len(shingles_of(b" \n")) == 0
    assert len(signature(shingles_of(b""), CONFIG)) == 4 * CONFIG.bands * CONFIG.rows


def test_signatures_do_not_depend_on_order_and_repeats() -> None:
    one = random_set(0, 500)
    again = np.concatenate([one[::-1], one[:100]])
    assert signature(one, CONFIG) == signature(again, CONFIG)
    assert signature(one, CONFIG) != signature(one[1:400], CONFIG)


def test_signatures_stay_what_they_are() -> None:
    """Those of finished tasks are read again by later versions: a change must change ALGORITHM."""
    found = np.frombuffer(signature(np.arange(1, 1000, dtype=np.uint64), CONFIG), dtype="<u4")
    assert found[:4].tolist() == GOLDEN


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_jaccard(one: set[int], other: set[int]) -> None:
    expected = len(one & other) / len(one | other) if one | other else 1.0
    assert jaccard(*(np.array(sorted(numbers), dtype=np.uint64) for numbers in (one, other))) == expected


def test_signatures_estimate_the_similarity() -> None:
    shared, mine, yours = random_set(1, 700), random_set(2, 150), random_set(3, 150)
    one, other = (np.unique(np.concatenate([shared, rest])) for rest in (mine, yours))
    agreeing = np.mean(signed([one])[0] == signed([other])[0])
    assert agreeing == pytest.approx(jaccard(one, other), abs=0.12)


def test_s_curve() -> None:
    curve = dict(s_curve(CONFIG))
    assert list(curve) == sorted(curve) and list(curve.values()) == sorted(curve.values())
    assert curve[0.0] == 0 and curve[1.0] == 1
    assert chance(CONFIG.threshold, CONFIG) > 0.99
    assert chance(0.5, Dedup(bands=2, rows=1)) == 0.75


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), max_size=12))
def test_buckets_hold_those_that_agree_in_a_band(rows: list[list[int]]) -> None:
    config = Dedup(bands=3, rows=2)
    signatures = np.array(rows, dtype=np.uint32).reshape(len(rows), 6)
    found = buckets(signatures, config)
    members: dict[int, set[int]] = {}
    for at, document in enumerate(found.documents.tolist()):
        for number in found.numbers[found.starts[at] : found.starts[at + 1]].tolist():
            members.setdefault(number, set()).add(document)
    pairs = {pair for bucket in members.values() for pair in combinations(sorted(bucket), 2)}
    expected = {
        (i, j)
        for i, j in combinations(range(len(rows)), 2)
        if any(rows[i][band : band + 2] == rows[j][band : band + 2] for band in (0, 2, 4))
    }
    assert pairs == expected
    assert suspects(signatures, config).tolist() == sorted({document for pair in expected for document in pair})


# --- what is dropped


def test_a_nearly_equal_file_goes_and_a_half_equal_one_stays() -> None:
    original, near, half = text(), text(3, 90), text(*range(0, 200, 2))
    sets = [shingles_of(data) for data in (original, near, half, b"import os\n" * 3)]
    assert jaccard(sets[0], sets[2]) < CONFIG.threshold
    assert drop(sets) == {1: (0, jaccard(sets[0], sets[1]))}


def test_the_preferred_one_stays() -> None:
    sets = [shingles_of(text(*changes)) for changes in ((), (1,), (2,))]
    assert {document: kept for document, (kept, _) in drop(sets, order=[2, 0, 1]).items()} == {0: 2, 1: 2}


def test_one_is_compared_with_kept_ones_only() -> None:
    """A chain a ~ b ~ c, in which c is not like a, loses b and no more."""
    base = random_set(4, 1000)
    a, b, c = base[:800], base[100:900], base[200:1000]
    assert jaccard(a, b) == jaccard(b, c) >= 0.7 > jaccard(a, c)
    assert drop([a, b, c]).keys() == {1}
    assert drop([a, b, c], order=[1, 0, 2]).keys() == {0, 2}


def test_only_what_is_in_the_order_counts() -> None:
    sets = [random_set(5, 100)] * 3
    assert drop(sets, order=[2, 1]) == {1: (2, 1.0)}
    assert drop([]) == {}


def test_thousands_of_almost_equal_files_are_compared_with_one() -> None:
    header = random_set(6, 300)
    sets = [np.unique(np.append(header, np.uint64(i))) for i in range(3000)]
    compared = []

    def read(document: int) -> Hashes:
        compared.append(document)
        return sets[document]

    dropped = drop_near_duplicates(range(len(sets)), signed(sets), read, CONFIG)
    assert {kept for kept, _ in dropped.values()} == {0}
    assert len(dropped) == len(sets) - 1
    assert len(compared) == len(sets)


def test_hopeless_candidates_are_not_read() -> None:
    """They share a band by chance, which their signatures tell."""
    shared = random_set(7, 700)
    sets = [np.unique(np.concatenate([shared, random_set(10 + i, 525)])) for i in range(30)]
    assert len(suspects(signed(sets), CONFIG)) > 0

    def never(document: int) -> Hashes:
        raise AssertionError(document)

    assert drop_near_duplicates(range(len(sets)), signed(sets), never, CONFIG) == {}


families = st.lists(
    st.tuples(st.integers(0, 3), st.sets(st.integers(0, 59), max_size=25)),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60)
@given(families, st.sampled_from([0.5, 0.7, 0.9]), st.randoms(use_true_random=False))
def test_against_brute_force(family: list[tuple[int, set[int]]], threshold: float, random: object) -> None:
    """Members of a family lack some of its shingles. The invariants, and the very result of comparing all candidates."""
    config = Dedup(threshold=threshold)
    bases = [random_set(100 + number, 60) for number in range(4)]
    sets = [np.delete(bases[number], [i for i in gone if i < len(bases[number])]) for number, gone in family]
    order = list(range(len(sets)))
    random.shuffle(order)  # type: ignore[attr-defined]
    signatures = signed(sets, config)
    dropped = drop_near_duplicates(order, signatures, sets.__getitem__, config)
    bands = signatures.reshape(len(sets), config.bands, config.rows)

    def alike(one: int, other: int) -> bool:
        candidates = bool(np.any(np.all(bands[one] == bands[other], axis=1)))
        return candidates and jaccard(sets[one], sets[other]) >= threshold

    kept: list[int] = []
    for document in order:
        if not any(alike(document, other) for other in kept):
            kept.append(document)
    assert dropped.keys() == set(order) - set(kept)
    for document, (keeper, similarity) in dropped.items():
        assert keeper in kept and order.index(keeper) < order.index(document)
        assert jaccard(sets[document], sets[keeper]) == similarity >= threshold


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    asked = []

    def read(document: int) -> Hashes:
        asked.append(document)
        return np.zeros(100, dtype=np.uint64)

    cache = Cache(read, limit=1600)
    for document in (1, 2, 1, 3, 1, 2):
        assert len(cache(document)) == 100
    assert asked == [1, 2, 3, 2]
    assert cache.size <= 1600
