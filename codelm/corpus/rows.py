"""The columns of the corpus and of what was left out of it."""

from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.writers import ParquetWriter


class Copy(TypedDict):
    """Another place where the very same text stands."""

    repo: str
    path: str
    license: str | None


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
    license_sha: str | None
    copyright: list[str]
    source_url: str | None
    split: str
    also_in: list[Copy]


COPIES = pa.list_(pa.struct([("repo", pa.string()), ("path", pa.string()), ("license", pa.string())]))

ROW = pa.schema(
    [
        pa.field("repo", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("token_count", pa.int64(), nullable=False),
        pa.field("version", pa.string()),
        pa.field("blob_sha", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("license_method", pa.string(), nullable=False),
        pa.field("license_sha", pa.string()),
        pa.field("copyright", pa.list_(pa.string())),
        pa.field("source_url", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("also_in", COPIES),
    ]
)

# Before duplicates are dropped and the split is known.
CANDIDATE = pa.schema([field for field in ROW if field.name not in ("split", "also_in")]).append(
    pa.field("text_hash", pa.string(), nullable=False)
)

REJECTED = pa.schema(
    [
        pa.field("repo", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def writer(folder: Path, name: str, schema: pa.Schema) -> ParquetWriter:
    """Writes documents to zstd Parquet files. name: of the files, with ${rank} and ${column} as placeholders."""
    return ParquetWriter(
        str(folder),
        output_filename=name,
        compression="zstd",
        adapter=row_of,
        batch_size=256,
        max_file_size=-1,
        schema=schema,
        use_content_defined_chunking=False,
    )


def row_of(_writer: ParquetWriter, document: Document) -> dict[str, Any]:
    """A document as a row; the schema picks the columns."""
    return {"content": document.text, **document.metadata}
