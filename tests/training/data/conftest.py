"""Shards to lay out: a real one, and documents of any sizes whose ids are all different."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from codelm.corpus.tokens import DOCUMENT, Documents, TokenShard, open_shard
from codelm.tokenizer import FILE, Tokenizer

MakeShard = Callable[..., TokenShard]


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture(scope="session")
def shard(tokens_dir: Path) -> TokenShard:
    return open_shard(tokens_dir, "train")


@pytest.fixture(scope="session")
def make_shard() -> MakeShard:
    """Documents of these lengths, of a repository each if none are given; columns: of the index."""

    def make(lengths: Sequence[int], repos: Sequence[str] | None = None, **columns: Sequence[str | int | None]) -> TokenShard:
        offsets = np.cumsum([0, *lengths])
        count = len(lengths)
        rows = {
            "repo": repos or [f"repo{number}" for number in range(count)],
            "path": [f"{number}.py" for number in range(count)],
            "language": ["Python"] * count,
            "license": ["MIT"] * count,
            "source": ["here"] * count,
            "order": range(count),
            "size": [4 * length for length in lengths],
        } | columns
        return TokenShard(
            np.arange(10_000, 10_000 + offsets[-1], dtype=np.uint16),
            offsets,
            int(4 * offsets[-1]),
            documents=Documents(pa.table({name: list(rows[name]) for name in DOCUMENT.names}, schema=DOCUMENT)),
        )

    return make
