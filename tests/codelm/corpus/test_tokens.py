"""Token shards."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from codelm.corpus.read import read_rows
from codelm.corpus.tokens import encode, open_shard
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


def test_unchanged_it_is_not_encoded_again(tokens_dir: Path, tokenizer_dir: Path, corpus: Path) -> None:
    before = Manifest.read(tokens_dir)
    assert encode(tokens_dir, corpus, tokenizer_dir) == before


@pytest.mark.parametrize("name", ["train.ids", "train.offsets.npy", "manifest.json"])
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
