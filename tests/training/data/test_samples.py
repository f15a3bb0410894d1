"""Sample i is a function of (seed, i)."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from codelm.config.data import DataConfig, FimConfig
from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer
from training.data import SHORTEST_FIM_PIECE, PackedSamples, Sample
from training.loss import IGNORE, KINDS

MakeShard = Callable[..., TokenShard]
LENGTH = 128
FIM = FimConfig(character=0.45, ast=0.35, line=0.1, block=0.05, empty=0.05)
SETTINGS = {
    "defaults": (FimConfig(), DataConfig()),
    "best fit": (FIM, DataConfig(packing="best_fit")),
    "repositories": (FIM, DataConfig(repo_share=0.5)),
}


@pytest.fixture(scope="module", params=SETTINGS)
def samples(request: pytest.FixtureRequest, shard: TokenShard, tokenizer: Tokenizer) -> PackedSamples:
    fim, data = SETTINGS[request.param]
    return PackedSamples(shard, tokenizer, fim, LENGTH, seed=3, data=data)


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_sample_depends_on_seed_and_number_only(shard: TokenShard, tokenizer: Tokenizer, settings: str) -> None:
    fim, data = SETTINGS[settings]
    one, again, other = (PackedSamples(shard, tokenizer, fim, LENGTH, seed, data) for seed in (3, 3, 4))
    windows = -(-one.epoch_tokens // LENGTH)
    numbers = [0, 1, 17, windows - 1, windows, 5 * windows + 3]
    backwards = {i: again[i] for i in reversed(numbers)}
    assert all(same(one[i], backwards[i]) for i in numbers)
    assert not any(same(one[i], other[i]) for i in numbers)
    assert not same(one[0], one[windows]), "the second epoch is another one"


def test_a_pickled_copy_makes_the_same(samples: PackedSamples) -> None:
    copy = pickle.loads(pickle.dumps(samples))
    assert all(same(copy[i], samples[i]) for i in range(20))


def test_a_copy_of_a_shard_on_disk_holds_no_tokens(samples: PackedSamples) -> None:
    held = len(pickle.dumps(samples)) - len(pickle.dumps(samples.tokenizer))
    assert held < samples.shard.ids.nbytes / 10


def test_labels_are_the_next_ids(samples: PackedSamples, tokenizer: Tokenizer) -> None:
    for i in range(200):
        sample = samples[i]
        assert all(tensor.shape == (LENGTH,) and tensor.dtype == torch.int64 for tensor in sample)
        learned = sample.labels != IGNORE
        assert torch.equal(sample.ids[1:][learned[:-1]], sample.labels[:-1][learned[:-1]])
        assert tokenizer.fim.fim_pad not in sample.ids[learned]
        assert (sample.ids[1:][~learned[:-1]] == tokenizer.fim.fim_pad).all()


def test_padding_is_at_the_end_and_not_learned(tokenizer: Tokenizer) -> None:
    text = "def function(argument):\n    return argument\n" * 30
    single = {piece: id_ for id_, piece in enumerate(tokenizer.token_bytes) if len(piece) == 1}
    # no real piece shrinks; this one's only line is encoded anew and becomes much shorter
    ids = np.array([single[bytes([byte])] for byte in text.replace("\n", " ").encode()], dtype=np.uint16)
    data = PackedSamples(TokenShard(ids, np.array([0, len(ids)]), len(ids)), tokenizer, FimConfig(rate=1), LENGTH, seed=0)
    pad, padded = tokenizer.fim.fim_pad, 0
    for i in range(-(-data.epoch_tokens // data.length)):
        inputs, labels, positions = (data[i][at].tolist() for at in (0, 1, 3))
        shown = inputs.index(pad) if pad in inputs else LENGTH
        assert inputs[shown:] == [pad] * (LENGTH - shown)
        assert labels[: shown - 1] == inputs[1:shown]
        assert labels[shown:] == [IGNORE] * (LENGTH - shown)
        assert positions[shown:] == list(range(LENGTH - shown))
        padded += LENGTH - shown
    assert padded


def test_positions_begin_anew_at_each_document(samples: PackedSamples, tokenizer: Tokenizer) -> None:
    plain = PackedSamples(samples.shard, tokenizer, FimConfig(rate=0), LENGTH, samples.seed, samples.data)
    for i in range(100):
        expected: list[int] = []
        for piece in plain.pieces(i):
            begin = expected[-1] + 1 if piece.goes_on else 0
            expected += range(begin, begin + len(piece.ids))
        expected += range(LENGTH + 1 - len(expected))
        assert plain[i].positions.tolist() == expected[:LENGTH]


def test_half_of_the_pieces_are_examples_in_both_orders(shard: TokenShard, tokenizer: Tokenizer) -> None:
    samples = PackedSamples(shard, tokenizer, FimConfig(), LENGTH, seed=3)
    tokens = tokenizer.fim
    pieces = examples = spm = 0
    for i in range(400):
        ids = samples[i].ids.tolist()
        pieces += sum(len(piece.ids) >= SHORTEST_FIM_PIECE for piece in samples.pieces(i))
        starts = [at for at, id_ in enumerate(ids[:-1]) if id_ == tokens.fim_prefix]
        examples += len(starts)
        spm += sum(ids[at + 1] == tokens.fim_suffix for at in starts)
    assert 0.43 < examples / pieces < 0.55
    assert 0.4 < spm / examples < 0.6


def test_kinds_are_those_of_the_labels(shard: TokenShard, tokenizer: Tokenizer) -> None:
    samples = PackedSamples(shard, tokenizer, FIM, LENGTH, seed=3)
    tokens, seen = tokenizer.fim, np.zeros(len(KINDS), dtype=int)
    for i in range(200):
        sample = samples[i]
        labels, kinds = sample.labels.tolist(), sample.kinds.tolist()
        seen += np.bincount(kinds, minlength=len(KINDS))
        for at, label in enumerate(labels):
            if label in (tokens.fim_prefix, tokens.fim_suffix, tokens.fim_middle):
                assert KINDS[kinds[at]] == "code"
            if label == tokens.endoftext and at and KINDS[kinds[at - 1]] == "middle":
                assert KINDS[kinds[at]] == "middle", "the end is what a middle has to say last"
            if labels[at - 1] == tokens.endoftext and at:
                assert KINDS[kinds[at]] != "middle"
    assert (seen > 0).all()


def test_without_examples_the_kinds_are_those_of_the_shard(shard: TokenShard, tokenizer: Tokenizer) -> None:
    samples = PackedSamples(shard, tokenizer, FimConfig(rate=0), LENGTH, seed=3)
    prose = ""
    for i in range(100):
        sample = samples[i]
        expected = np.concatenate([piece.prose for piece in samples.pieces(i)])[1:]
        assert np.array_equal(sample.kinds.numpy(), expected)
        prose += tokenizer.decode(sample.labels[sample.kinds == 1].tolist()).decode(errors="replace")
    assert '"""' in prose
    assert "# " in prose


def test_the_documents_of_a_sample_have_names(samples: PackedSamples) -> None:
    index = samples.shard.documents
    assert index is not None
    for i in range(20):
        names = samples.documents(i)
        assert names == list(dict.fromkeys(index.place(piece.document) for piece in samples.pieces(i)))
        assert all("/" in name for name in names)


def test_the_facts_of_a_packing(shard: TokenShard, tokenizer: Tokenizer) -> None:
    whole = np.count_nonzero(np.diff(shard.offsets) + 1 > LENGTH + 1)
    best = PackedSamples(shard, tokenizer, FIM, LENGTH, 0, DataConfig(packing="best_fit")).facts()
    assert best["documents_cut"] == whole
    assert 0 < best["padding_share"] < 0.05
    stream = PackedSamples(shard, tokenizer, FIM, LENGTH, 0).facts()
    assert stream["packing"] == "stream"
    assert stream["documents_cut"] >= whole
    assert stream["padding_share"] == 0
