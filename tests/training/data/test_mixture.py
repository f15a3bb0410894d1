"""What is read how often."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.data import AnnealConfig, DataConfig, Factor, FimConfig, MixtureConfig
from codelm.corpus.tokens import TokenShard
from codelm.errors import UserError
from codelm.stage import Manifest
from codelm.tokenizer import Tokenizer
from training.data import PackedSamples
from training.data.mixture import Turns, sources

MakeShard = Callable[..., TokenShard]
NO_FIM = FimConfig(rate=0)
SHARES = st.lists(st.floats(1e-3, 1), min_size=1, max_size=8).map(lambda shares: [s / sum(shares) for s in shares])


@settings(max_examples=50)
@given(SHARES, st.integers(0, 5000), st.integers(1, 3000))
def test_every_source_has_its_share_at_any_moment(shares: list[float], first: int, count: int) -> None:
    turns = Turns(shares)
    before = Counter(turns[i][0] for i in range(first))
    seen = Counter(before)
    for i in range(first, first + count):
        source, turn = turns[i]
        assert turn == seen[source], "its samples come in order, none is left out"
        seen[source] += 1
    for number, share in enumerate(shares):
        assert abs(seen[number] - share * (first + count)) <= 1 + len(shares) / 2


@settings(max_examples=50)
@given(SHARES, st.lists(st.integers(0, 20_000), min_size=1, max_size=20))
def test_turns_do_not_depend_on_what_was_asked_before(shares: list[float], numbers: list[int]) -> None:
    turns = Turns(shares)
    assert [turns[i] for i in numbers] == [Turns(shares)[i] for i in numbers]


def test_far_on_the_turns_are_still_exact() -> None:
    shares = [0.5, 0.3, 0.15, 0.05]
    far = Turns(shares).block(10**9)
    assert len(far[0]) == Turns.BLOCK
    for number, share in enumerate(shares):
        turn = far[1][far[0] == number]
        assert np.array_equal(np.diff(turn), np.ones(len(turn) - 1))
        assert abs(turn[0] - share * 10**9) <= 3


def languages(shard: TokenShard, data: PackedSamples, first: int, count: int) -> dict[str, float]:
    """The share of the ids that each language has in samples first … first + count − 1."""
    seen = Counter[str]()
    for i in range(first, first + count):
        for piece in data.pieces(i):
            seen[shard.language_of(piece.document) or ""] += len(piece.ids)
    return {name: number / seen.total() for name, number in seen.items()}


@pytest.fixture(scope="module")
def three(make_shard: MakeShard) -> TokenShard:
    """800 kB of Python, 150 of C and 50 of Go, in documents of 100 tokens."""
    names = ["Python"] * 80 + ["C"] * 15 + ["Go"] * 5
    return make_shard(
        [100] * 100,
        language=names,
        size=[10_000] * 100,
        source=["big"] * 90 + ["small"] * 10,
        license=["MIT", "Apache-2.0", None, "GPL-3.0-only"] * 25,
    )


def test_languages_are_mixed_by_temperature(three: TokenShard, tokenizer: Tokenizer) -> None:
    for alpha, expected in ((1, (0.8, 0.15, 0.05)), (0, (1 / 3, 1 / 3, 1 / 3)), (0.5, (0.5955, 0.2579, 0.1489))):
        config = DataConfig(mixture=MixtureConfig(by="language", alpha=alpha))
        data = PackedSamples(three, tokenizer, NO_FIM, 50, 0, config)
        found = languages(three, data, 0, 2000)
        total = sum(expected)
        assert [found[name] for name in ("Python", "C", "Go")] == pytest.approx([e / total for e in expected], abs=2e-3)


def test_a_share_is_one_of_the_text_where_windows_hold_padding(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    shard = make_shard([60] * 50 + [99] * 50, language=["Python"] * 50 + ["C"] * 50, size=[10_000] * 100)
    config = DataConfig(packing="best_fit", mixture=MixtureConfig(by="language", alpha=0))
    found = languages(shard, PackedSamples(shard, tokenizer, NO_FIM, 99, 0, config), 0, 2000)
    assert found["Python"] == pytest.approx(0.5, abs=2e-3), "a window holds one of its documents and 39 ids of padding"


def test_a_small_language_is_read_evenly_and_more_often(three: TokenShard, tokenizer: Tokenizer) -> None:
    data = PackedSamples(three, tokenizer, NO_FIM, 50, 0, DataConfig(mixture=MixtureConfig(by="language", alpha=0)))
    seen = Counter[int]()
    for i in range(3 * 170):  # 170 windows of 50 of each language
        missing = 50
        for piece in data.pieces(i):
            seen[piece.document] += min(missing, len(piece.ids))
            missing -= min(missing, len(piece.ids))
    for documents in (range(95, 100), range(80)):
        counts = [seen[number] for number in documents]
        assert sum(counts) == pytest.approx(8500, abs=100)
        assert max(counts) - min(counts) <= 101, "none twice before all others once"


def test_the_default_alpha_is_that_of_the_corpus(corpus: Path, shard: TokenShard) -> None:
    weights = Manifest.read(corpus).counts["mixture"]["languages"]
    assert shard.documents is not None
    names = shard.documents.names("language")
    found = {
        names[shard.documents.codes("language")[source.documents[0]]]: source.share
        for source in sources(shard, MixtureConfig(by="language"))
    }
    assert found == pytest.approx(weights)


def test_factors_multiply(three: TokenShard) -> None:
    config = MixtureConfig(
        factors=(Factor(factor=3, language="c"), Factor(factor=2, files="repo9*"), Factor(factor=0, license="gpl*"))
    )
    found = sources(three, config)
    drawn = np.zeros(100)
    for source in found:
        drawn[source.documents] = source.share / len(source.documents)
    expected = np.ones(100)
    expected[80:95] *= 3
    expected[9] *= 2
    expected[90:100] *= 2
    expected[3::4] = 0
    assert drawn == pytest.approx(expected / expected.sum())
    assert sum(source.share for source in found) == pytest.approx(1)


def test_sources_are_those_of_the_corpus(three: TokenShard) -> None:
    found = sources(three, MixtureConfig(by="source", alpha=0))
    assert sorted(len(source.documents) for source in found) == [10, 90]
    assert [source.share for source in found] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((Factor(factor=1, language="Pyhton"),), "fits no document .language: Pyhton"),
        ((Factor(factor=2, files="nowhere/*"),), "fits no document .files: nowhere"),
        ((Factor(factor=0, language="*"),), "leave no document"),
    ],
)
def test_factors_that_cannot_be_meant(three: TokenShard, factors: tuple[Factor, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sources(three, MixtureConfig(factors=factors))


def test_a_factor_says_of_which() -> None:
    with pytest.raises(ValueError, match="give language, license or files"):
        Factor(factor=2)


def test_the_annealing_takes_over_at_its_sample(three: TokenShard, tokenizer: Tokenizer) -> None:
    anneal = AnnealConfig(mixture=MixtureConfig(factors=(Factor(factor=0, language="Python"),)), fim_rate=1)
    plain = PackedSamples(three, tokenizer, NO_FIM, 50, 0)
    data = PackedSamples(three, tokenizer, NO_FIM, 50, 0, DataConfig(anneal=anneal))
    changed = data.annealed_from(120)
    assert all(np.array_equal(data[i].ids, plain[i].ids) for i in range(300)), "nobody said when"
    assert all(np.array_equal(changed[i].ids, plain[i].ids) for i in range(120))
    assert languages(three, changed, 120, 400) == pytest.approx({"C": 0.75, "Go": 0.25}, abs=5e-3)
    assert changed.annealing is not None
    assert changed.reading(119)[0].fim.rate == 0
    assert changed.reading(120)[0].fim.rate == 1
    once = Counter(piece.document for i in range(120, 160) for piece in changed.pieces(i) for _ in piece.ids[:-1])
    assert len(once) == 20, "an epoch of its own"


def test_annealing_may_have_more_repositories(shard: TokenShard, tokenizer: Tokenizer) -> None:
    config = DataConfig(anneal=AnnealConfig(repo_share=1, fim_rate=0))
    data = PackedSamples(shard, tokenizer, NO_FIM, 128, 0, config).annealed_from(10)
    assert [tokenizer.fim.repo_name in data[i].ids for i in range(20)] == [False] * 10 + [True] * 10


def test_a_shard_without_an_index_cannot_be_mixed(make_shard: MakeShard) -> None:
    shard = make_shard([5, 6])
    bare = TokenShard(shard.ids, shard.offsets, 0)
    assert len(sources(bare, MixtureConfig())) == 1
    with pytest.raises(UserError, match="no index"):
        sources(bare, MixtureConfig(by="language"))
