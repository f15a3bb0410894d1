"""Functions with what their authors wrote about them, for fine-tuning: CodeSearchNet (https://arxiv.org/abs/1909.09436)."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from codelm.corpus.sources.columns import Columns, text
from codelm.corpus.sources.tables import PARQUET, Table, open_lines, parquet_rows

FIELDS = ("repo", "path", "name", "language", "docstring", "content", "license", "url", "split")
"""Of a pair; those that a set does not have are null."""


def pairs(tables: Iterable[Table]) -> Iterator[dict[str, Any]]:
    """The rows that have a docstring, with the fields FIELDS. Broken rows and files are passed over."""
    for table in tables:
        for row in rows(table):
            columns = Columns.among(row)
            if columns is None or "docstring" not in columns.of:
                continue
            get = {field: row.get(column) for field, column in columns.of.items()}
            pair = {field: plain(get.get(field)) for field in FIELDS}
            if pair["docstring"] and pair["content"]:
                yield pair


def write_pairs(tables: Iterable[Table], file: Path) -> int:
    """Writes pairs as JSON Lines, whole or not at all; how many there were. Without any, nothing is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as out:
            for pair in pairs(tables):
                out.write(json.dumps(pair, ensure_ascii=False) + "\n")
                count += 1
            out.flush()
            os.fsync(out.fileno())
        if count:
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def rows(table: Table) -> Iterator[Mapping[str, Any]]:
    """The rows of a table that can be read, with the columns that we know."""
    if not table.name.lower().endswith(PARQUET):
        with suppress(OSError), open_lines(table.file) as lines:
            for line in lines:
                with suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(pa.ArrowException, OSError), pq.ParquetFile(table.file, pre_buffer=False) as file:
        columns = Columns.among(file.schema_arrow.names)
        wanted = list(columns.of.values()) if columns else []
        for group in range(file.metadata.num_row_groups) if columns else ():
            yield from parquet_rows(file, group, wanted)


def plain(value: Any) -> Any:
    """A cell as JSON can hold it."""
    if isinstance(value, list):
        return [text(one) for one in value]
    return text(value)
