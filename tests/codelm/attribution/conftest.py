"""Corpora in the columns of a snapshot's shards, and their indexes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codelm.attribution.index import build_index
from codelm.attribution.lookup import Index
from codelm.corpus.rows import ROW

Document = dict[str, Any]


def document(path: str, content: str, **told: Any) -> Document:
    """A row of a snapshot; what is not told is empty."""
    empty = {f.name: None if f.nullable else "" if pa.types.is_string(f.type) else 0 for f in ROW}
    return {**empty, "repo": "pypi/some", "path": path, "content": content, **told}


def write_shards(folder: Path, documents: Iterable[Document], rows_in_shard: int = 1000) -> list[Path]:
    """Parquet files of a snapshot."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(documents)
    paths = []
    for first in range(0, max(len(rows), 1), rows_in_shard):
        paths.append(folder / f"train-{len(paths):05}.parquet")
        table = pa.Table.from_pylist(rows[first : first + rows_in_shard], schema=ROW)
        pq.write_table(table, paths[-1], compression="zstd", row_group_size=100)
    return paths


@pytest.fixture
def index_of(tmp_path: Path) -> Callable[..., Index]:
    """Builds an index of documents."""
    count = 0

    def build(*documents: Document | str) -> Index:
        nonlocal count
        count += 1
        rows = [document(f"{n}.py", d) if isinstance(d, str) else d for n, d in enumerate(documents)]
        folder = tmp_path / f"index-{count}"
        folder.mkdir()
        build_index(folder, write_shards(tmp_path / f"shards-{count}", rows))
        return Index.open(folder)

    return build
