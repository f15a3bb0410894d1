"""The order of the data: sample i is a function of (seed, i)."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm import fim
from codelm.config.data import FimConfig
from codelm.corpus.tokens import TokenShard, open_shard
from codelm.tokenizer import FILE, Tokenizer
from training.data import SHORTEST_FIM_PIECE, PackedSamples, Sample, StepBatches, fim_piece, loader
from training.loss import IGNORE

LENGTH = 128
NO_FIM = FimConfig(rate=0)
LINE = st.sampled_from(["def f(x):", "    return x", "", "\tif größe == '日本':", "        y = f(1, 2)  # <|endoftext|>", "}"])
CODE = st.lists(LINE, min_size=8, max_size=40).map("\n".join) | st.text(min_size=10)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture(scope="module")
def shard(tokens_dir: Path) -> TokenShard:
    return open_shard(tokens_dir, "train")


@pytest.fixture(scope="module")
def samples(shard: TokenShard, tokenizer: Tokenizer) -> PackedSamples:
    return PackedSamples(shard, tokenizer, FimConfig(), LENGTH, seed=3)


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def made_up(lengths: list[int]) -> TokenShard:
    """Documents of these lengths whose ids are all different."""
    offsets = np.cumsum([0, *lengths])
    return TokenShard(np.arange(10_000, 10_000 + offsets[-1], dtype=np.uint16), offsets, int(offsets[-1]))


def test_a_sample_depends_on_seed_and_number_only(shard: TokenShard, tokenizer: Tokenizer, samples: PackedSamples) -> None:
    again = PackedSamples(shard, tokenizer, FimConfig(), LENGTH, seed=3)
    other = PackedSamples(shard, tokenizer, FimConfig(), LENGTH, seed=4)
    numbers = [0, 1, 17, samples.windows - 1, samples.windows, 5 * samples.windows + 3]
    backwards = {i: again[i] for i in reversed(numbers)}
    assert all(same(samples[i], backwards[i]) for i in numbers)
    assert not any(same(samples[i], other[i]) for i in numbers)
    assert not same(samples[0], samples[samples.windows]), "the second epoch is another one"


def test_a_sample_in_another_process_is_the_same(samples: PackedSamples) -> None:
    copy = pickle.loads(pickle.dumps(samples))
    assert all(same(copy[i], samples[i]) for i in range(20))


def test_the_number_of_workers_changes_nothing(samples: PackedSamples) -> None:
    batches = {workers: list(loader(samples, StepBatches(2, 8, 3, 2, 0, 1), workers)) for workers in (0, 1, 2)}
    assert len(batches[0]) == 12
    for workers in (1, 2):
        assert all(same(one, other) for one, other in zip(batches[0], batches[workers], strict=True))


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "ranks"), [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)]
)
def test_ranks_and_accumulation_share_out_the_same_steps(micro_batch: int, accumulation: int, ranks: int) -> None:
    batches = [StepBatches(5, 8, micro_batch, accumulation, rank, ranks) for rank in range(ranks)]
    parts = [list(of_rank) for of_rank in batches]
    for of_rank, part in zip(batches, parts, strict=True):
        assert len(of_rank) == len(part) == 3 * accumulation
        assert all(len(batch) == micro_batch for batch in part)
    for step in range(3):
        rows = slice(step * accumulation, (step + 1) * accumulation)
        seen = sorted(i for part in parts for batch in part[rows] for i in batch)
        assert seen == list(range((5 + step) * 8, (6 + step) * 8))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(4, 50), st.integers(0, 3), st.integers(0, 2))
def test_without_fim_an_epoch_holds_every_token_once(
    tokenizer: Tokenizer, lengths: list[int], length: int, seed: int, epoch: int
) -> None:
    shard = made_up(lengths)
    data = PackedSamples(shard, tokenizer, NO_FIM, length, seed)
    windows = [data[epoch * data.windows + turn] for turn in range(data.windows)]
    seen = Counter(id_ for window in windows for id_ in window.ids.tolist())
    surplus = data.windows * length - data.epoch_tokens  # what the last window takes from the beginning
    assert seen.total() - surplus == data.epoch_tokens
    assert all(seen[id_] >= 1 for id_ in shard.ids.tolist())
    assert seen[tokenizer.fim.endoftext] >= len(lengths)
    assert sum(count - 1 for id_, count in seen.items() if id_ != tokenizer.fim.endoftext) <= surplus


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(4, 50), st.integers(0, 3))
def test_without_fim_documents_stand_whole_in_the_stream(
    tokenizer: Tokenizer, lengths: list[int], length: int, seed: int
) -> None:
    shard = made_up(lengths)
    data = PackedSamples(shard, tokenizer, NO_FIM, length, seed)
    order = data.epoch(0)[2]
    windows = {int(order[turn]): data[turn].ids.tolist() for turn in range(data.windows)}
    stream = [id_ for window in range(data.windows) for id_ in windows[window]][: data.epoch_tokens]
    end = tokenizer.fim.endoftext
    documents = [tuple(shard.ids[a:b].tolist()) for a, b in zip(shard.offsets, shard.offsets[1:], strict=False)]
    found: list[tuple[int, ...]] = []
    while stream:
        at = stream.index(end)
        found.append(tuple(stream[:at]))
        stream = stream[at + 1 :]
    assert sorted(found) == sorted(documents)


def test_labels_are_the_next_ids(samples: PackedSamples, tokenizer: Tokenizer) -> None:
    for i in range(200):
        ids, labels, kinds, positions = samples[i]
        assert ids.shape == labels.shape == kinds.shape == positions.shape == (LENGTH,)
        assert ids.dtype == labels.dtype == kinds.dtype == positions.dtype == torch.int64
        assert torch.equal(ids[1:], labels[:-1])
        assert tokenizer.fim.fim_pad not in ids


def test_padding_is_at_the_end_and_not_learned(tokenizer: Tokenizer) -> None:
    text = "def function(argument):\n    return argument\n" * 30
    single = {piece: id_ for id_, piece in enumerate(tokenizer.token_bytes) if len(piece) == 1}
    ids = np.array([single[bytes([byte])] for byte in text.encode()], dtype=np.uint16)  # an example of it is much shorter
    data = PackedSamples(TokenShard(ids, np.array([0, len(ids)]), len(ids)), tokenizer, FimConfig(rate=1), LENGTH, seed=0)
    pad, padded = tokenizer.fim.fim_pad, 0
    for i in range(data.windows):
        inputs, labels = data[i].ids.tolist(), data[i].labels.tolist()
        shown = inputs.index(pad) if pad in inputs else LENGTH
        assert inputs[shown:] == [pad] * (LENGTH - shown)
        assert labels[: shown - 1] == inputs[1:shown]
        assert labels[shown:] == [IGNORE] * (LENGTH - shown)
        padded += LENGTH - shown
    assert padded


def test_half_of_the_pieces_are_examples_in_both_orders(samples: PackedSamples, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.fim
    pieces = examples = spm = 0
    for i in range(400):
        ids = samples[i].ids.tolist()
        pieces += sum(len(piece) >= SHORTEST_FIM_PIECE for piece in samples.pieces(i))
        starts = [at for at, id_ in enumerate(ids[:-1]) if id_ == tokens.fim_prefix]
        examples += len(starts)
        spm += sum(ids[at + 1] == tokens.fim_suffix for at in starts)
    assert 0.4 < examples / pieces < 0.52
    assert 0.4 < spm / examples < 0.6


@settings(deadline=None, max_examples=200)
@given(CODE, st.booleans(), st.integers(0, 2**32), st.sampled_from(fim.Order))
def test_an_example_of_a_piece(tokenizer: Tokenizer, text: str, whole: bool, seed: int, order: fim.Order) -> None:
    tokens = tokenizer.fim
    piece = np.array(tokenizer.encode(text) + [tokens.endoftext] * whole, dtype=np.int64)
    config = FimConfig(rate=1, spm_rate=float(order is fim.Order.SPM))
    ids = fim_piece(piece, tokenizer, config, np.random.default_rng(seed)).tolist()
    if ids == piece.tolist():
        return
    assert len(ids) <= len(piece)
    for special in (tokens.fim_prefix, tokens.fim_suffix, tokens.fim_middle, tokens.endoftext):
        assert ids.count(special) == 1
    assert ids[0] == tokens.fim_prefix
    assert ids[-1] == tokens.endoftext
    suffix_at, middle_at = ids.index(tokens.fim_suffix), ids.index(tokens.fim_middle)
    before, suffix, middle = ids[1:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 : -1]
    if order is fim.Order.SPM:
        assert before == []
    else:
        assert middle == tokenizer.encode(tokenizer.decode(middle).decode()), "tokenised apart and never cut"
        assert tokenizer.decode(before + middle) in text.encode()
    # only the far ends of the context are cut off, so what is left is one stretch of the text
    assert tokenizer.decode(before + middle + suffix) in text.encode()


@settings(deadline=None)
@given(CODE, st.integers(0, 2**32))
def test_a_piece_that_begins_inside_a_character_stays_as_it_is(tokenizer: Tokenizer, text: str, seed: int) -> None:
    broken = np.array(tokenizer.encode("日" + text), dtype=np.int64)[1:]
    if tokenizer.decode(broken.tolist()).decode(errors="replace").startswith("\ufffd"):
        out = fim_piece(broken, tokenizer, FimConfig(rate=1), np.random.default_rng(seed))
        assert np.array_equal(out, broken)


def test_a_piece_without_room_stays_as_it_is(tokenizer: Tokenizer) -> None:
    piece = np.array(tokenizer.encode("x = 1"), dtype=np.int64)
    for seed in range(50):
        ids = fim_piece(piece, tokenizer, FimConfig(rate=1), np.random.default_rng(seed))
        assert len(ids) <= len(piece)
