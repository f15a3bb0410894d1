"""The validation split of a corpus, as evaluations read it."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from codelm.corpus.read import fingerprint, read_rows
from codelm.corpus.rows import Row
from codelm.corpus.tokens import TokenShard, open_shard
from codelm.stage import Manifest, digest
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer

MAX_BYTES = 64_000_000
"""Of source that is held in memory; of a larger split that much is drawn, file by file."""


class HeldOut:
    """Files of packages that no training has seen."""

    def __init__(self, corpus: Path, tokens: Path) -> None:
        """corpus, tokens: the stage folders of a run."""
        self.corpus = corpus
        self.tokens = tokens
        self.fingerprint = fingerprint(corpus)
        self._shards: dict[str, TokenShard] = {}

    @cached_property
    def rows(self) -> list[Row]:
        """The files, with their text."""
        share = MAX_BYTES / max(1, Manifest.read(self.corpus).counts["splits"]["valid"]["bytes"])
        random = np.random.Generator(np.random.Philox(key=[0, 0]))
        rows = read_rows(self.corpus, "valid", ["repo", "path", "content", "size"])
        return [row for row in rows if share >= 1 or random.random() < share]

    @property
    def texts(self) -> list[str]:
        """Of the files."""
        return [row["content"] for row in self.rows]

    def shard(self, tokenizer: Tokenizer) -> TokenShard:
        """The split in the tokens of any tokenizer: those of the run are there, others are made of the texts."""
        if tokenizer.sha256 not in self._shards:
            self._shards[tokenizer.sha256] = self.own(tokenizer) or encoded(self.texts, tokenizer)
        return self._shards[tokenizer.sha256]

    def own(self, tokenizer: Tokenizer) -> TokenShard | None:
        """The run's shard, if the run has that tokenizer."""
        if Manifest.read(self.tokens).inputs.get("tokenizer") != digest({TOKENIZER_FILE: tokenizer.sha256}):
            return None
        return open_shard(self.tokens, "valid")

    def counts(self) -> dict[str, Any]:
        """How much there is."""
        return {
            "files": len(self.rows),
            "repositories": len({row["repo"] for row in self.rows}),
            "bytes": sum(row["size"] for row in self.rows),
        }


def encoded(texts: list[str], tokenizer: Tokenizer) -> TokenShard:
    """Texts as a shard in memory."""
    ids = tokenizer.encode_batch(texts)
    offsets = np.cumsum([0, *map(len, ids)])
    return TokenShard(
        np.concatenate([np.array(one, dtype=np.uint32) for one in ids]), offsets, sum(len(t.encode()) for t in texts)
    )
