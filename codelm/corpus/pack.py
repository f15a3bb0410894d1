"""The step that writes the snapshot's shards from the candidates that were chosen."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from codelm.corpus.rows import GROUP_ROWS, ITSELF, ROW


class Pack(PipelineStep):  # type: ignore[misc, unused-ignore]
    """Writes `snapshot/<shard>.parquet` of one shard."""

    name = "pack"
    type = "writer"

    def __init__(self, work: Path, names: list[str]) -> None:
        """work: holds `candidates/` and `chosen/`. names: of the shards, one a task."""
        super().__init__()
        self.work = work
        self.names = names

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Writes shard `rank`; yields nothing."""
        pa.set_cpu_count(1)
        name = self.names[rank]
        chosen = pq.read_table(self.work / "chosen" / f"{name}.parquet")
        table = rows_of(
            sorted((self.work / "candidates").glob("*.parquet")),
            chosen["rank"].to_numpy(),
            chosen["row"].to_numpy(),
            [one.name for one in ITSELF],
        )
        split = name.partition("-")[0]
        added = {"split": pa.array([split] * len(table)), "order": chosen["order"], "also_in": chosen["also_in"]}
        for column, values in added.items():
            table = table.append_column(ROW.field(column), values)
        (self.work / "snapshot").mkdir(exist_ok=True)
        write_shard(table, self.work / "snapshot" / f"{name}.parquet")
        yield from ()


def rows_of(files: Sequence[Path], ranks: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], columns: list[str]) -> Any:
    """A table of row `rows[i]` of file `files[ranks[i]]` for each i."""
    by_file = np.argsort(ranks, kind="stable")
    parts = [pq.read_table(files[one], columns=columns).take(pa.array(rows[ranks == one])) for one in np.unique(ranks)]
    return pa.concat_tables(parts).take(pa.array(np.argsort(by_file)))


def write_shard(table: Any, path: Path) -> None:
    """Writes a shard that is either whole or not there. Equal rows give equal bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table.cast(ROW).combine_chunks(), temporary, compression="zstd", row_group_size=GROUP_ROWS)
    temporary.replace(path)
