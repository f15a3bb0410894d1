"""How documents fill windows: every token once in an epoch, whatever the packing."""

import pickle
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.corpus.tokens import TokenShard
from training.data.packing import BestFitPacking, Piece, StreamPacking

MakeShard = Callable[..., TokenShard]
Either = StreamPacking | BestFitPacking
END = 7
LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def laid_out(kind: type[Either], shard: TokenShard, length: int, seed: int) -> Either:
    return kind(shard, np.arange(len(shard)), END, length, seed, 0)


def windows(packing: Either, epoch: int) -> list[list[Piece]]:
    if isinstance(packing, StreamPacking):
        numbers = range(packing.first_window(epoch), packing.first_window(epoch + 1))
    else:
        numbers = range(epoch * packing.windows, (epoch + 1) * packing.windows)
    return [list(packing.pieces(n)) for n in numbers]


def texts(shard: TokenShard) -> list[list[int]]:
    return [[*shard.ids[a:b].tolist(), END] for a, b in zip(shard.offsets, shard.offsets[1:], strict=False)]


@settings(max_examples=50)
@given(LENGTHS, st.integers(4, 50), st.integers(0, 3), st.integers(0, 2))
def test_a_stream_holds_every_token_once(make_shard: MakeShard, lengths: list[int], length: int, seed: int, epoch: int) -> None:
    shard = make_shard(lengths)
    packing = laid_out(StreamPacking, shard, length, seed)
    before, after = packing.first_window(epoch), packing.first_window(epoch + 1)
    drawn = [[id_ for piece in packing.pieces(n) for id_ in piece.ids.tolist()] for n in range(after)]
    assert all(len(window) == length + 1 for window in drawn)
    by_place = {before + int(window): ids for window, ids in zip(packing.epoch(epoch).windows, drawn[before:], strict=True)}
    assert sorted(by_place) == list(range(before, after))
    # the last id of a window is the first of the next; the last window goes on in the next epoch
    seen = Counter(id_ for window in drawn for id_ in window[:-1])
    once = Counter(id_ for text in texts(shard) for id_ in text)
    surplus = after * length - (epoch + 1) * packing.tokens
    assert 0 <= surplus < length
    for id_, count in once.items():
        assert seen[id_] >= count * (epoch + 1)
    assert seen.total() - surplus == once.total() * (epoch + 1)


@settings(max_examples=50)
@given(LENGTHS, st.integers(4, 50), st.integers(0, 3))
def test_documents_stand_whole_in_a_stream(make_shard: MakeShard, lengths: list[int], length: int, seed: int) -> None:
    shard = make_shard(lengths)
    packing = laid_out(StreamPacking, shard, length, seed)
    windows_of = {}
    for n in range(packing.first_window(3)):
        number = n * length // packing.tokens
        first = packing.first_window(number)
        windows_of[first + int(packing.epoch(number).windows[n - first])] = list(packing.pieces(n))
    stream = [id_ for _, window in sorted(windows_of.items()) for id_ in [i for p in window for i in p.ids.tolist()][:-1]]
    for epoch in range(3):
        part = stream[epoch * packing.tokens : (epoch + 1) * packing.tokens]
        found = []
        while part:
            found.append(part[: part.index(END) + 1])
            part = part[len(found[-1]) :]
        assert sorted(found) == sorted(texts(shard))


@settings(max_examples=50)
@given(LENGTHS, st.integers(4, 50), st.integers(0, 3), st.integers(0, 2))
def test_best_fit_holds_every_token_once(make_shard: MakeShard, lengths: list[int], length: int, seed: int, epoch: int) -> None:
    shard = make_shard(lengths)
    packing = laid_out(BestFitPacking, shard, length, seed)
    found = windows(packing, epoch)
    assert all(0 < sum(len(piece.ids) for piece in window) <= length + 1 for window in found)
    parts = defaultdict(list)
    for window in found:
        for piece in window:
            parts[piece.document].append(piece.ids.tolist())
    for number, text in enumerate(texts(shard)):
        # ids of a document rise, and its end is smaller than all of them
        ordered = sorted(parts[number], key=lambda ids: float("inf") if ids == [END] else ids[0])
        assert [id_ for part in ordered for id_ in part] == text
        assert len(ordered) == -(-len(text) // (length + 1)), "cut only where it must be"


def test_best_fit_cuts_less_and_pads_little(make_shard: MakeShard) -> None:
    random = np.random.default_rng(0)
    shard = make_shard(random.lognormal(4, 1, size=300).astype(int).tolist())
    stream, best = laid_out(StreamPacking, shard, 128, 0).cut(), laid_out(BestFitPacking, shard, 128, 0).cut()
    lengths = np.diff(shard.offsets) + 1
    assert best.documents == np.count_nonzero(lengths > 129) < stream.documents
    assert stream.padding == 0
    ids = [sum(len(piece.ids) for piece in window) for window in windows(laid_out(BestFitPacking, shard, 128, 0), 0)]
    assert best.padding == pytest.approx(1 - sum(ids) / (129 * len(ids)))
    assert best.padding < 0.02


def test_what_a_stream_cuts(make_shard: MakeShard) -> None:
    shard = make_shard([30, 9, 9, 68])
    packing = laid_out(StreamPacking, shard, 20, 0)
    holders = defaultdict(set)
    for turn, window in enumerate(windows(packing, 0)):
        position = 0
        for piece in window:
            inputs = min(len(piece.ids), 20 - position)
            position += inputs
            if inputs:
                holders[piece.document].add(turn)
    assert packing.cut().documents == sum(len(turns) > 1 for turns in holders.values())


@pytest.mark.parametrize("kind", [StreamPacking, BestFitPacking])
def test_epochs_differ_and_a_copy_does_not(make_shard: MakeShard, kind: type[Either]) -> None:
    packing = laid_out(kind, make_shard([5, 17, 17, 80, 33, 2, 9, 26]), 20, 3)
    ids = [[piece.ids.tolist() for window in windows(packing, epoch) for piece in window] for epoch in range(3)]
    assert ids[0] != ids[1] != ids[2]
    copy = pickle.loads(pickle.dumps(packing))
    assert [[piece.ids.tolist() for window in windows(copy, epoch) for piece in window] for epoch in (2, 0, 1)] == [
        ids[2],
        ids[0],
        ids[1],
    ]
