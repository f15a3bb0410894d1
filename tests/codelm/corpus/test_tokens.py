"""Token shards."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.corpus.prose import prose_tokens
from codelm.corpus.read import read_rows
from codelm.corpus.tokens import BitWriter, TokenShard, encode, open_shard
from codelm.errors import UserError
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_shard_holds_the_texts_of_its_split(tokens_dir: Path, tokenizer_dir: Path, corpus: Path, split: str) -> None:
    tokenizer, shard = Tokenizer(tokenizer_dir / FILE), open_shard(tokens_dir, split)
    texts = [row["content"].encode() for row in read_rows(corpus, split)]
    documents = zip(shard.offsets[:-1], shard.offsets[1:], strict=True)
    assert [tokenizer.decode(shard.ids[first:last].tolist()) for first, last in documents] == texts
    assert len(shard) == len(texts)
    assert shard.text_bytes == sum(map(len, texts))
    counts = Manifest.read(tokens_dir).counts[split]
    assert counts["documents"] == len(texts)
    assert counts["tokens"] == len(shard.ids)
    assert counts["bytes_per_token"] == pytest.approx(shard.text_bytes / len(shard.ids), abs=1e-3)
    assert shard.ids.dtype == np.uint16


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_index_tells_of_every_document(tokens_dir: Path, corpus: Path, split: str) -> None:
    documents = open_shard(tokens_dir, split).documents
    rows = list(read_rows(corpus, split))
    assert documents is not None
    assert len(documents) == len(rows)
    for number, row in enumerate(rows):
        assert documents.repo(number) == row["repo"]
        assert documents.path(number) == row["path"]
        assert documents.place(number) == f"{row['repo']}/{row['path']}"
        assert documents.language(number) == row["language"]
    assert documents.places() == [documents.place(number) for number in range(len(rows))]
    licenses = documents.names("license")
    assert [licenses[code] if code >= 0 else None for code in documents.codes("license")] == [row["license"] for row in rows]
    assert documents.numbers("order").tolist() == [row["order"] for row in rows]
    assert documents.numbers("size").tolist() == [row["size"] for row in rows]
    source_of = Manifest.read(corpus).counts["mixture"]["source_of"]
    sources = documents.names("source")
    assert [sources[code] for code in documents.codes("source")] == [source_of[row["repo"]] for row in rows]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_prose_is_told_for_every_token(tokens_dir: Path, tokenizer_dir: Path, corpus: Path, split: str) -> None:
    tokenizer, shard = Tokenizer(tokenizer_dir / FILE), open_shard(tokens_dir, split)
    prose = shard.prose_of(0, len(shard.ids))
    assert len(prose) == len(shard.ids)
    assert prose.sum() == Manifest.read(tokens_dir).counts[split]["prose_tokens"] > 0
    for number, row in enumerate(read_rows(corpus, split)):
        first, last = int(shard.offsets[number]), int(shard.offsets[number + 1])
        ids = shard.ids[first:last]
        expected = prose_tokens(row["content"].encode(), row["language"], tokenizer.byte_lengths[ids])
        assert np.array_equal(shard.prose_of(first, last), expected)
        assert np.array_equal(shard.prose_of(first + 3, last - 1), expected[3:-1])


def test_another_process_gets_the_place_of_a_shard_and_not_its_contents(tokens_dir: Path) -> None:
    shard = open_shard(tokens_dir, "train")
    pickled = pickle.dumps(shard)
    assert len(pickled) < 1_000
    copy = pickle.loads(pickled)
    assert np.array_equal(copy.ids, shard.ids)
    assert np.array_equal(copy.prose, shard.prose)
    assert copy.documents.place(3) == shard.documents.place(3)
    in_memory = pickle.loads(pickle.dumps(TokenShard(np.arange(3), np.array([0, 3]), 3)))
    assert in_memory.ids.tolist() == [0, 1, 2]
    assert in_memory.prose_of(1, 3).tolist() == [False, False]


@settings(max_examples=40)
@given(st.lists(st.lists(st.booleans(), max_size=20), max_size=8), st.data())
def test_bits_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[bool]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("bits") / "prose"
    with BitWriter(path) as file:
        for run in runs:
            file.write(np.array(run, dtype=bool))
    bits = [bit for run in runs for bit in run]
    shard = TokenShard(np.zeros(len(bits)), np.array([0, len(bits)]), 0, np.frombuffer(path.read_bytes(), dtype=np.uint8))
    first = data.draw(st.integers(0, len(bits)))
    last = data.draw(st.integers(first, len(bits)))
    assert shard.prose_of(first, last).tolist() == bits[first:last]


def test_tokens_of_an_older_layout_are_encoded_anew(
    tokens_dir: Path, tokenizer_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(tokens_dir, folder)
    for path in folder.glob("*.prose"):
        path.unlink()
    old = Manifest.read(tokens_dir).model_copy(update={"config": {}, "key": "of another layout"})
    (folder / "manifest.json").write_text(old.model_dump_json(), encoding="utf-8")
    with pytest.raises(UserError, match=r"another version of codelm; encode it again with `codelm tokenizer train --run"):
        open_shard(folder, "train")
    made = encode(folder, corpus, tokenizer_dir)
    assert made.outputs == Manifest.read(tokens_dir).outputs
    assert len(open_shard(folder, "train")) == len(open_shard(tokens_dir, "train"))


def test_unchanged_it_is_not_encoded_again(tokens_dir: Path, tokenizer_dir: Path, corpus: Path) -> None:
    before = Manifest.read(tokens_dir)
    assert encode(tokens_dir, corpus, tokenizer_dir) == before


@pytest.mark.parametrize("name", ["train.ids", "train.offsets.npy", "train.prose", "train.documents.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "longer", "one bit"])
def test_a_damaged_shard_is_named(tokens_dir: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(tokens_dir, folder)
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        damaged = {"empty": b"", "half": data[: len(data) // 2], "longer": data + data[-100:], "one bit": flipped}
        path.write_bytes(damaged[damage])
    if (name, damage) == ("manifest.json", "one bit"):
        return  # a manifest has no hash of its own
    with pytest.raises(UserError, match=str(folder)):
        open_shard(folder, "train")
