"""The columns of the corpus and of what was left out of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq


class Copy(TypedDict):
    """Another place where the same text stands."""

    repo: str
    path: str
    license: str | None
    kind: str
    """exact or near"""


class Redacted(TypedDict):
    """How many of one kind of secret or personal data were replaced."""

    kind: str
    count: int


class Row(TypedDict):
    """One file of the corpus."""

    repo: str
    path: str
    content: str
    license: str | None
    token_count: int
    version: str | None
    blob_sha: str
    language: str
    size: int
    license_method: str
    license_confidence: float
    license_sha: str | None
    copyright: list[str]
    source_url: str | None
    redacted: list[Redacted]
    split: str
    order: int
    also_in: list[Copy]


COPIES = pa.list_(pa.struct([("repo", pa.string()), ("path", pa.string()), ("license", pa.string()), ("kind", pa.string())]))

# What a file says of itself.
ITSELF = [
    pa.field("repo", pa.string(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("content", pa.string(), nullable=False),
    pa.field("license", pa.string()),
    pa.field("token_count", pa.int64(), nullable=False),  # lexemes: an estimate that needs no tokenizer
    pa.field("version", pa.string()),
    pa.field("blob_sha", pa.string(), nullable=False),  # of the bytes as found, before anything was redacted
    pa.field("language", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),  # bytes as found
    pa.field("license_method", pa.string(), nullable=False),
    pa.field("license_confidence", pa.float32(), nullable=False),
    pa.field("license_sha", pa.string()),
    pa.field("copyright", pa.list_(pa.string())),
    pa.field("source_url", pa.string()),
    pa.field("redacted", pa.list_(pa.struct([("kind", pa.string()), ("count", pa.int64())]))),
]

CANDIDATE = pa.schema(
    [
        *ITSELF,
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("signature", pa.binary()),
        pa.field("imports", pa.list_(pa.string())),
    ]
)
"""Before copies are dropped and the split is known."""

ROW = pa.schema(
    [
        *ITSELF,
        pa.field("split", pa.string(), nullable=False),
        pa.field("order", pa.int64(), nullable=False),  # position in its repository, dependencies first
        pa.field("also_in", COPIES),
    ]
)

REJECTED = pa.schema(
    [
        pa.field("repo", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("blob_sha", pa.string()),
        pa.field("language", pa.string()),
        pa.field("license", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

GROUP_ROWS = 128
"""Rows of a row group: what one look at a single row has to read."""


class RowWriter:
    """Writes a zstd Parquet file that is either whole or not there. Equal rows give equal bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> "RowWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a worker that outlives a killed build may still be at the same file
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self.file = pq.ParquetWriter(self.temporary, self.schema, compression="zstd")
        return self

    def write(self, row: dict[str, Any]) -> None:
        """Takes a row; the schema picks its columns."""
        self.rows.append(row)
        if len(self.rows) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes a row group."""
        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()
        self.file.close()
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def table(folder: Path, columns: list[str], pattern: str = "*.parquet") -> Iterator[dict[str, Any]]:
    """Some columns of the Parquet files of a folder, a row at a time, in the order of the files' names."""
    for path in sorted(folder.glob(pattern)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
