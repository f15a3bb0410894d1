"""Reading a corpus back, a row at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from codelm.corpus.rows import ROW, Row
from codelm.errors import UserError
from codelm.stage import Manifest

BATCH_ROWS = 64


def read_rows(folder: Path, split: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of one split ("train" or "valid") of a corpus folder, in the order of the files.

    columns: the ones to read, which is faster; the rows lack the others. None: all.
    Raises UserError if there is none, or if one of its files is broken.
    """
    files = sorted((folder / "snapshot").glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no {split} rows", "run `codelm corpus build` first")
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                missing = set(ROW.names) - set(file.schema_arrow.names)
                if missing:
                    raise pa.ArrowInvalid(f"no column {min(missing)}")
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    yield from cast(list[Row], batch.to_pylist())
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is not readable: {reason}", f"delete {folder} and build the corpus again") from error


def fingerprint(folder: Path) -> str:
    """Identity of the kept rows: what later stages are made from. What was rejected does not enter."""
    return Manifest.read(folder).fingerprint_of("snapshot/")
