"""The rows of a finished corpus as one file, for other tools."""

import bz2
import contextlib
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from codelm.corpus.rows import GROUP_ROWS, ROW
from codelm.corpus.snapshot import readable, whole
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import disk_full_is_a_user_error

Format = Literal["jsonl", "parquet"]

STDOUT = Path("-")
COMPRESSION: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile("", "wb", 6, file, mtime=0),
    ".zst": lambda file: pa.CompressedOutputStream(file, "zstd"),
    ".bz2": lambda file: bz2.BZ2File(file, "wb"),
}
"""Ending → what writes it."""
JSONL = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".parq")
KNOWN = f"name it .jsonl, .jsonl{', .jsonl'.join(COMPRESSION)} or .parquet"


def format_of(out: Path, said: Format | None = None) -> Format:
    """What to write, by the ending of a name, or as said: JSONL to standard output.

    Raises UserError if the name says nothing, or another thing.
    """
    if out == STDOUT:
        return said or "jsonl"
    packed = out.suffix.lower() in COMPRESSION
    ending = Path(out.stem if packed else out.name).suffix.lower()
    found: Format | None = "jsonl" if ending in JSONL else "parquet" if ending in PARQUET and not packed else None
    if found is None or said not in (None, found):
        what = f"not the ending of {said}" if said else "an ending that is not known"
        raise UserError(f"{out}: {''.join(out.suffixes[-2:]) or 'none'} is {what}", KNOWN)
    return found


def export(folder: Path, out: Path, kind: Format | None = None, split: str | None = None, progress: Progress = silent) -> int:
    """Writes the rows of a corpus to one file, which is whole or not there; returns how many. progress: in rows.

    out: the name tells the form and whether it is compressed; "-" is standard output. kind: of standard output, by default
    JSONL. split: only this one. Raises UserError if there is no corpus, if it is not whole, no such split, no room, or if
    `out` is no place for a file or ends in what is not written.
    """
    kind = format_of(out, kind)
    splits = whole(folder).counts["splits"]
    if split is not None and split not in splits:
        raise UserError(f"{folder} has no split {split!r}", f"known: {', '.join(splits)}")
    shards = sorted((folder / "snapshot").glob(f"{split or ''}*.parquet"))
    with readable(folder):
        total = sum(pq.read_metadata(shard).num_rows for shard in shards)
    with disk_full_is_a_user_error(out), standard_output() if out == STDOUT else new_file(out) as file:
        written = (
            write_parquet(file, batches(folder, shards))
            if kind == "parquet"
            else write_jsonl(file, COMPRESSION.get(out.suffix.lower(), contextlib.nullcontext), batches(folder, shards))
        )
        for done in written:
            progress(done, total)
    return total


def standard_output() -> IO[bytes]:
    """A writer of its own: what a full disk did not take is not tried again when the program ends."""
    return open(sys.stdout.fileno(), "wb", closefd=False)


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole. Raises UserError if another thing than a file stands there."""
    out = Path(os.path.realpath(out))
    try:
        if out.is_dir():
            raise UserError(f"{out} is a folder", f"name a file in it, such as {out / 'corpus.jsonl'}")
        if os.path.lexists(out) and not out.is_file():
            raise UserError(f"{out} is no regular file", "name a file that may be written or replaced; - is standard output")
        if not out.parent.is_dir():
            raise UserError(f"{out.parent}: no such folder", "make it, or name a file in another one")
        temporary = out.with_name(f".{out.name}.partial")
        file = temporary.open("wb")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", "name another file") from error
    try:
        with file:
            yield file
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def batches(folder: Path, shards: Sequence[Path]) -> Iterator[Any]:
    """All columns of the shards, some rows at a time. Raises UserError if one cannot be read."""
    with readable(folder):
        for path in shards:
            with pq.ParquetFile(path) as shard:
                yield from shard.iter_batches(batch_size=GROUP_ROWS)


def write_parquet(file: IO[bytes], batches: Iterator[Any]) -> Iterator[int]:
    """Writes one table; yields how many rows are written."""
    done = 0
    with pq.ParquetWriter(file, ROW, compression="zstd") as table:
        for batch in batches:
            table.write_batch(batch)
            yield (done := done + batch.num_rows)


def write_jsonl(file: IO[bytes], pack: Callable[[IO[bytes]], Any], batches: Iterator[Any]) -> Iterator[int]:
    """Writes a JSON object on each line; yields how many are written. pack: compresses."""
    done = 0
    with pack(file) as lines:
        for batch in batches:
            for row in batch.to_pylist():
                lines.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            yield (done := done + batch.num_rows)
