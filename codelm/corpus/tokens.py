"""Corpus rows → memory-mapped token shards with a document index; the stage folder `<run>/tokens`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codelm.config.settings import Settings
from codelm.corpus.read import fingerprint, read_rows
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, file_sha256
from codelm.tokenizer import FILE, Tokenizer

BATCH_BYTES = 4_000_000


class TokensConfig(Settings):
    """Nothing to choose yet."""


class TokenShard(NamedTuple):
    """The documents of one split, one after the other, without special tokens between them.

    ids: (tokens,) uint16 or uint32, memory-mapped. offsets: (documents + 1,) int64, where each begins and the last ends.
    text_bytes: UTF-8 bytes of all documents.
    """

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    text_bytes: int

    def __len__(self) -> int:
        return len(self.offsets) - 1


def encode(folder: Path, corpus: Path, tokenizer: Path, progress: Progress = silent) -> Manifest:
    """Encodes both splits of a corpus."""
    made = Manifest.read(corpus)
    inputs = {"corpus": fingerprint(corpus), "tokenizer": Manifest.read(tokenizer).fingerprint}
    stage = Stage(folder, TokensConfig(), inputs, libraries=("numpy", "tokenizers"))
    if manifest := stage.done():
        return manifest
    vocabulary = Tokenizer(tokenizer / FILE)
    dtype = np.uint16 if vocabulary.vocab_size <= 1 << 16 else np.uint32
    total = sum(split["bytes"] for split in made.counts["splits"].values())
    done = 0
    with stage.build() as temporary:
        for split in ("train", "valid"):
            offsets, text_bytes = [0], 0
            with (temporary / f"{split}.ids").open("wb") as file:
                for texts in batches(corpus, split):
                    for ids in vocabulary.encode_batch(texts):
                        file.write(np.asarray(ids, dtype=dtype).tobytes())
                        offsets.append(offsets[-1] + len(ids))
                    text_bytes += sum(len(text.encode()) for text in texts)
                    progress(done + text_bytes, total)
            done += text_bytes
            np.save(temporary / f"{split}.offsets.npy", np.asarray(offsets, dtype=np.int64))
            stage.counts[split] = {
                "documents": len(offsets) - 1,
                "tokens": offsets[-1],
                "text_bytes": text_bytes,
                "bytes_per_token": round(text_bytes / max(offsets[-1], 1), 3),
            }
        stage.counts["dtype"] = np.dtype(dtype).name
    return Manifest.read(folder)


def batches(corpus: Path, split: str) -> Iterator[list[str]]:
    """The texts of a split in row order, a few megabytes at a time."""
    texts: list[str] = []
    size = 0
    for row in read_rows(corpus, split):
        texts.append(row["content"])
        size += len(row["content"])
        if size >= BATCH_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def open_shard(folder: Path, split: str) -> TokenShard:
    """One split, memory-mapped. Raises UserError if its files are not what was written."""
    manifest = Manifest.read(folder)
    counts = manifest.counts
    try:
        for name in (f"{split}.ids", f"{split}.offsets.npy"):
            if file_sha256(folder / name) != manifest.outputs[name]:
                raise ValueError(f"{name} does not match its hash")
        ids = np.memmap(folder / f"{split}.ids", dtype=counts["dtype"], mode="r")
        offsets = np.load(folder / f"{split}.offsets.npy")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: the {split} shard is damaged ({error})", f"delete {folder} and run again") from error
    return TokenShard(ids, offsets, counts[split]["text_bytes"])
