"""Files of a repository one after the other."""

import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm import fim
from codelm.config.data import DataConfig, FimConfig
from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer
from training.data import PackedSamples
from training.data.packing import Piece
from training.data.repositories import RepositoryPacking

MakeShard = Callable[..., TokenShard]
NO_FIM = FimConfig(rate=0)


def laid_out(shard: TokenShard, tokenizer: Tokenizer, length: int, seed: int = 0, ordered: float = 1) -> RepositoryPacking:
    return RepositoryPacking(tokenizer, ordered, shard, np.arange(len(shard)), tokenizer.fim.endoftext, length, seed, 0)


def windows(packing: RepositoryPacking, epoch: int) -> list[list[Piece]]:
    list(packing.pieces(0))
    while len(packing.begins) < epoch + 2:
        list(packing.pieces(packing.begins[-1]))
    return [list(packing.pieces(n)) for n in range(packing.begins[epoch], packing.begins[epoch + 1])]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), min_size=1, max_size=12).filter(
        lambda files: any(size for size, _ in files)
    ),
    st.integers(10, 60),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_every_token_stands_once_behind_its_name(
    make_shard: MakeShard, tokenizer: Tokenizer, files: list[tuple[int, str]], length: int, seed: int, epoch: int
) -> None:
    shard = make_shard([size for size, _ in files], [repo for _, repo in files])
    tokens, parts = tokenizer.fim, defaultdict(list)
    for window in windows(laid_out(shard, tokenizer, length, seed, 0.5), epoch):
        assert sum(len(piece.ids) for piece in window) <= length + 1
        assert window[0].ids[0] == tokens.repo_name, "a window says where its text is from"
        for names, part in zip(window[::2], window[1::2], strict=True):
            assert names.document == part.document
            assert names.goes_on == (names.ids[0] != tokens.repo_name)
            assert tokens.file_sep in names.ids
            assert part.goes_on
            assert not names.may_be_fim
            parts[part.document].extend(id_ for id_ in part.ids.tolist() if id_ >= 10_000 or id_ == tokens.endoftext)
        assert [part.may_be_fim for part in window[1::2]] == [False] * (len(window) // 2 - 1) + [True]
    ends = 0
    for number in range(len(files)):
        found = parts[number]
        ends += tokens.endoftext in found
        assert sorted(id_ for id_ in found if id_ != tokens.endoftext) == list(
            range(10_000 + int(shard.offsets[number]), 10_000 + int(shard.offsets[number + 1]))
        )
    assert ends == len({repo for _, repo in files}), "one end a repository"


def test_the_layout_is_qwens(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    contents = ["import b\n", "x = 1", ""]
    ids = [tokenizer.encode(text) for text in contents]
    made = make_shard([len(one) for one in ids], ["me/mine"] * 3, path=["a.py", "lib/b.py", "c.py"], order=[1, 0, 2])
    shard = TokenShard(np.array([*itertools.chain(*ids)], dtype=np.uint16), made.offsets, 0, documents=made.documents)
    data = PackedSamples(shard, tokenizer, NO_FIM, 64, 0, DataConfig(repo_share=1, repo_ordered_share=1))
    sample = data[0]
    tokens, encode = tokenizer.fim, tokenizer.encode
    expected = [
        *(tokens.repo_name, *encode("me/mine\n")),
        *(tokens.file_sep, *encode("lib/b.py\n"), *encode("x = 1"), *encode("\n")),
        *(tokens.file_sep, *encode("a.py\n"), *encode("import b\n")),
        *(tokens.file_sep, *encode("c.py\n"), *encode("\n"), tokens.endoftext),
    ]
    assert sample.ids[: len(expected)].tolist() == expected
    assert sample.positions[: len(expected)].tolist() == list(range(len(expected))), "one repository, one document"
    assert expected[: len(encode("me/mine\n")) + 1] == fim.repo_header(tokens, encode, "me/mine")


def test_some_repositories_are_in_order_and_others_are_not(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    repos = [f"r{number // 6}" for number in range(240)]
    shard = make_shard([3] * 240, repos, order=[number % 6 for number in range(240)])
    for share, low, high in ((1.0, 40, 40), (0.7, 20, 36), (0.0, 0, 3)):
        orders = defaultdict(list)
        packing = laid_out(shard, tokenizer, 400, ordered=share)
        by_order = {int(packing.epoch(0).order[turn]): window for turn, window in enumerate(windows(packing, 0))}
        for _, window in sorted(by_order.items()):
            for part in window[1::2]:
                orders[part.document // 6].append(part.document)
        assert low <= sum(order == sorted(order) for order in orders.values()) <= high


def test_only_the_last_file_of_a_window_is_filled_in_the_middle(shard: TokenShard, tokenizer: Tokenizer) -> None:
    config = FimConfig(rate=1, spm_rate=0)
    data = PackedSamples(shard, tokenizer, config, 512, 0, DataConfig(repo_share=1))
    tokens, filled = tokenizer.fim, 0
    for i in range(60):
        ids = data[i].ids.tolist()
        if tokens.fim_prefix in ids:
            filled += 1
            assert ids.count(tokens.fim_prefix) == 1
            at = ids.index(tokens.fim_prefix)
            assert tokens.file_sep in ids[:at]
            assert tokens.file_sep not in ids[at:]
            assert tokens.repo_name not in ids[at:]
    assert filled > 40


def test_a_share_of_the_samples_is_of_repositories(shard: TokenShard, tokenizer: Tokenizer) -> None:
    data = PackedSamples(shard, tokenizer, NO_FIM, 128, 0, DataConfig(repo_share=0.3))
    repositories = [tokenizer.fim.repo_name in data[i].ids for i in range(400)]
    assert sum(repositories) == pytest.approx(120, abs=1)


def test_padding_is_counted(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    packing = laid_out(make_shard([40, 3, 90, 200], ["a", "a", "b", "c"]), tokenizer, 100)
    ids = [sum(len(piece.ids) for piece in window) for window in windows(packing, 0)]
    cut = packing.cut()
    assert cut.padding == pytest.approx(1 - sum(ids) / (101 * len(ids)))
    parts = [part.document for window in windows(packing, 0) for part in window[1::2]]
    assert cut.documents == sum(parts.count(number) > 1 for number in range(4))


def test_a_long_name_is_shortened_at_its_beginning(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    path = "/".join(["deep"] * 100) + "/last.py"
    packing = laid_out(make_shard([50], path=[path]), tokenizer, 100)
    names = next(packing.pieces(0)).ids.tolist()
    assert tokenizer.decode(names).decode().endswith("last.py\n")
    assert len(names) <= 2 * (100 // 8 + 1)
