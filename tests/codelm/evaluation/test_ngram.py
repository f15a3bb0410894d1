"""The n-gram baseline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.evaluation.ngram import NgramModel, discounts

VOCABULARY = 6
STREAMS = st.lists(st.integers(0, VOCABULARY - 1), min_size=5, max_size=60)


def in_words(stream: list[int], order: int) -> dict[tuple[int, ...], int]:
    """How often each n-gram of one length occurs."""
    found: dict[tuple[int, ...], int] = {}
    for i in range(len(stream) - order + 1):
        gram = tuple(stream[i : i + order])
        found[gram] = found.get(gram, 0) + 1
    return found


def by_the_book(stream: list[int], context: tuple[int, ...], token: int, highest: int) -> float:
    """Interpolated modified Kneser-Ney, from the formula, with dictionaries."""

    def counts(n: int) -> dict[tuple[int, ...], int]:
        if n == highest:
            return in_words(stream, n)
        longer: dict[tuple[int, ...], int] = dict.fromkeys(in_words(stream, n), 0)
        for gram in in_words(stream, n + 1):
            longer[gram[1:]] += 1
        return longer

    def probability(context: tuple[int, ...]) -> float:
        n = len(context) + 1
        shorter = probability(context[1:]) if context else 1 / VOCABULARY
        table = counts(n)
        following = {gram: count for gram, count in table.items() if gram[:-1] == context}
        total = sum(following.values())
        if not total:
            return shorter
        off = discounts(np.array(list(table.values())))
        left = sum(off[min(count, 3)] for count in following.values())
        count = following.get((*context, token), 0)
        return float((count - off[min(count, 3)] + left * shorter) / total)

    return probability(context)


@settings(max_examples=60)
@given(STREAMS, st.lists(st.integers(0, VOCABULARY - 1), max_size=5), st.integers(1, 4))
def test_it_is_a_probability_and_the_one_of_the_formula(stream: list[int], context: list[int], order: int) -> None:
    model = NgramModel(np.array(stream, dtype=np.uint16), VOCABULARY, order)
    distribution = model.distribution(context)
    assert distribution.sum() == pytest.approx(1, abs=1e-6)
    assert distribution.min() >= 0
    used = tuple(context[max(0, len(context) - order + 1) :])
    for token in range(VOCABULARY):
        assert distribution[token] == pytest.approx(by_the_book(stream, used, token, order), rel=1e-5, abs=1e-9)


@settings(max_examples=60)
@given(STREAMS, st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=12), st.integers(1, 5))
def test_rows_are_scored_with_those_probabilities(stream: list[int], row: list[int], order: int) -> None:
    model = NgramModel(np.array(stream), VOCABULARY, order)
    nats = model.nats(np.array([row, row[::-1]]))
    for line, scored in zip((row, row[::-1]), nats, strict=True):
        expected = [-np.log(model.distribution(line[:i])[line[i]]) for i in range(1, len(line))]
        assert scored == pytest.approx(expected)


def test_it_sums_to_one_on_a_corpus(tokens_dir, tokenizer_dir) -> None:  # type: ignore[no-untyped-def]
    from codelm.corpus.tokens import open_shard

    ids = open_shard(tokens_dir, "train").ids
    model = NgramModel(ids, 1_024)
    held_out = open_shard(tokens_dir, "valid").ids.astype(np.int64)
    for start in range(0, 200, 10):
        assert model.distribution(held_out[start : start + 4].tolist()).sum() == pytest.approx(1, abs=1e-5)
    # longer contexts help, and it is better than chance
    nats = [NgramModel(ids, 1_024, order).nats(held_out[None, :4_000]).mean() for order in (1, 2, 3)]
    assert np.log(1_024) > nats[0] > nats[1] > nats[2] > model.nats(held_out[None, :4_000]).mean() - 0.2
    assert model.bytes < 40 * len(ids) * 5
