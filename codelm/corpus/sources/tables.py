"""Tables of code, a file to a row: Parquet and JSON Lines (https://jsonlines.org), read in parts that each stand alone."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from codelm.corpus.sources.base import Entry, Listed, Origin, Piece, Rejection, Source
from codelm.corpus.sources.columns import Columns
from codelm.corpus.sources.folder import existing_folder
from codelm.errors import UserError
from codelm.stage import digest

PARQUET = (".parquet", ".parq")
COMPRESSED = (".gz", ".zst", ".bz2")
JSON_LINES = tuple(f"{kind}{end}" for kind in (".jsonl", ".json", ".ndjson") for end in ("", *COMPRESSED))
NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json")
"""What lies beside the rows of a set, about it."""
ROWS = 256
"""Rows of Parquet in memory at once."""
MAYBE = ["?"]
"""The columns of a row that is broken, for the next may not be."""
MAX_LINE = 32_000_000
"""Bytes of a JSON line; a longer one is passed over."""


@dataclass(frozen=True)
class Table:
    """A file of rows."""

    file: Path
    name: str
    """inside its source"""
    size: int
    """bytes on disk"""
    stamp: str
    repo: str
    """of rows that name none"""

    @property
    def origin(self) -> Origin:
        """The origin of rows that name no repository."""
        return Origin(self.repo)

    def rejection(self, place: str | int, why: str, reason: str = "unreadable") -> Entry:
        """A part that cannot be read."""
        path = f"{self.name}@{place}" if place != "" else self.name
        return Entry(self.origin, path, None, None, f"{self.stamp}@{place}", Rejection(reason, why))

    def pieces(self, size: int) -> Iterator[Piece]:
        """Its rows in pieces of about `size` bytes."""
        if self.name.lower().endswith(PARQUET):
            yield from parquet_pieces(self, size)
        elif self.name.lower().endswith(COMPRESSED):
            yield JsonLines(self, 0, None, self.size)
        else:
            for start in range(0, self.size, size):
                end = min(start + size, self.size)
                yield JsonLines(self, start, end, end - start)


class TableSource(Source):
    """Rows of one or more files."""

    def __init__(self, given: str, tables: list[Table]) -> None:
        self.given = given
        self._tables = tables

    @property
    def tables(self) -> list[Table]:
        """The files."""
        return self._tables

    def pieces(self, size: int) -> Iterator[Piece]:
        """All rows, in the order of the files."""
        for table in self.tables:
            yield from table.pieces(size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the list of files, with their sizes and times of change."""
        return digest([[table.repo, table.name, table.size, table.stamp] for table in self.tables])


def table_source(given: str, place: Path, kinds: tuple[str, ...], repo: str, skip: Path | None = None) -> TableSource:
    """A file, or all files of these kinds in a folder. Raises UserError if there are none, or none that holds code."""
    try:
        if not place.exists():
            raise UserError(f"{given}: no such file", "give a table with a column of code")
        place = place.resolve()
        named = [(place, place.name)] if place.is_file() else sorted(files_in(existing_folder(given, place), kinds))
    except OSError as error:
        raise UserError(f"{given}: {error.strerror or error}", "give a table that you may read") from error
    tables = []
    for file, name in named:
        if skip is None or not file.is_relative_to(skip):
            status = file.stat()
            tables.append(Table(file, name, status.st_size, str(status.st_mtime_ns), repo))
    if not tables:
        raise UserError(f"{given}: no {' or '.join(kinds)} file in it", "give a table with a column of code")
    check(given, tables)
    return TableSource(given, tables)


def files_in(folder: Path, kinds: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """(file, path in the folder) of what has one of these endings."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for name in names:
            file = Path(parent, name)
            if is_table(name, kinds) and file.is_file():
                yield file, file.relative_to(folder).as_posix()


def is_table(path: str, kinds: tuple[str, ...] = (*PARQUET, *JSON_LINES)) -> bool:
    """Whether a file holds rows, by its name."""
    name = path.rsplit("/", 1)[-1]
    return name.lower().endswith(kinds) and name not in NOT_ROWS and not name.startswith(".")


def check(given: str, tables: Iterable[Table]) -> None:
    """Raises UserError if no table has a row that can be read, or none of those that do holds code."""
    columns: list[str] = []
    broken: list[str] = []
    for table in tables:
        try:
            found = first_columns(given, table)
        except OSError as error:
            broken.append(f"{table.name} is not readable: {error}")
            continue
        if found and (found == MAYBE or Columns.among(found)):
            return
        columns = columns or found
    fix = "give a table with a column named content"
    if columns:
        raise UserError(f"{given}: no column of code among {', '.join(columns)}", fix)
    if broken:
        raise UserError(f"{given}: {broken[0]}", "fetch or write it anew")
    raise UserError(f"{given}: no rows", fix)


def columns_of(tables: Iterable[Table]) -> Columns | None:
    """The known columns of the first table that can be read."""
    for table in tables:
        with contextlib.suppress(OSError):
            if columns := Columns.among(first_columns(table.name, table)):
                return columns
    return None


def first_columns(given: str, table: Table) -> list[str]:
    """The columns of a table, of its first row in JSON Lines: none without rows, MAYBE if that row is broken.

    Raises OSError, in one line, if it cannot be read, UserError for an array of rows.
    """
    if table.name.lower().endswith(PARQUET):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(table.file)
            return list(metadata.schema.to_arrow_schema().names) if metadata.num_rows else []
        except (pa.ArrowException, OSError) as error:
            raise OSError(one_line(error)) from error
    try:
        with open_lines(table.file) as file:
            line = next(
                (line for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip(b"\xef\xbb\xbf \t\r\n")), b""
            )
    except OSError as error:
        raise OSError(one_line(error)) from error
    if not line:
        return []
    line = line.removeprefix(b"\xef\xbb\xbf")
    if line.lstrip().startswith(b"["):
        raise UserError(f"{given}: {table.name} is one array of rows", "write a row per line, for example with jq -c '.[]'")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return MAYBE
    return list(row) or MAYBE if isinstance(row, dict) else MAYBE


# Parquet


@dataclass(frozen=True)
class RowGroups:
    """Some row groups of a Parquet file."""

    table: Table
    groups: tuple[int, ...]
    first_row: int
    size: int

    def entries(self) -> Iterator[Entry]:
        """Their rows; what is broken is one rejection for the rest of its group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.table.file, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            yield self.table.rejection("", one_line(error))
            return
        columns = Columns.among(file.schema_arrow.names)
        assert columns, "checked when the pieces were made"
        wanted = list(columns.of.values())
        number = self.first_row
        with file:
            for group in self.groups:
                start = number
                try:
                    for row in parquet_rows(file, group, wanted):
                        place = f"{self.table.file.stem}-{number}"
                        yield columns.entry(row, place, self.table.origin, f"{self.table.stamp}@{number}")
                        number += 1
                except (pa.ArrowException, OSError) as error:
                    yield self.table.rejection(f"rows {number} and more", one_line(error))
                number = start + file.metadata.row_group(group).num_rows


def parquet_pieces(table: Table, size: int) -> Iterator[Piece]:
    """Row groups of a Parquet file, put together up to about `size` bytes of the columns that are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(table.file)
        columns = Columns.among(metadata.schema.to_arrow_schema().names)
    except (pa.ArrowException, OSError) as error:
        yield Listed(0, (table.rejection("", one_line(error)),))
        return
    if columns is None:
        yield Listed(0, (table.rejection("", "no column of code"),))
        return
    groups: list[int] = []
    total = row = first = 0
    wanted = set(columns.of.values())
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group)
        chunks = (found.column(index) for index in range(found.num_columns))
        total += sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in wanted)
        groups.append(group)
        row += found.num_rows
        if total >= size:
            yield RowGroups(table, tuple(groups), first, total)
            groups, total, first = [], 0, row
    if groups:
        yield RowGroups(table, tuple(groups), first, total)


def parquet_rows(file: Any, group: int, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group. file: a ParquetFile. Raises pyarrow.ArrowException or OSError if it is broken."""
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=wanted):
        for cells in zip(*(values(batch.column(name)) for name in wanted), strict=True):
            yield dict(zip(wanted, cells, strict=True))


def values(column: Any) -> list[Any]:
    """A column as Python values; texts as bytes, for nobody says that they are valid."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        inner = column.type.value_type
        if pa.types.is_string(inner) or pa.types.is_large_string(inner):
            column = column.cast(pa.large_list(pa.large_binary()))
    found: list[Any] = column.to_pylist()
    return found


# JSON Lines


@dataclass(frozen=True)
class JsonLines:
    """The lines that begin in a range of bytes of a file."""

    table: Table
    start: int
    end: int | None
    """None: all of it"""
    size: int

    def entries(self) -> Iterator[Entry]:
        """Their rows; lines that are none are rejections."""
        try:
            with open_lines(self.table.file) as file:
                place = self.start
                if place:  # the line that goes on here belongs to the part before
                    file.seek(place - 1)
                    place = place - 1 + skip_line(file)
                while self.end is None or place < self.end:
                    line = file.readline(MAX_LINE)
                    if not line:
                        return
                    if len(line) == MAX_LINE and not line.endswith(b"\n"):
                        yield self.table.rejection(place, f"a line of more than {MAX_LINE} bytes", "size")
                        place += len(line) + skip_line(file)
                        continue
                    if entry := self.entry(line, place):
                        yield entry
                    place += len(line)
        except OSError as error:
            yield self.table.rejection("end", one_line(error))

    def entry(self, line: bytes, place: int) -> Entry | None:
        """One line, beginning at byte `place`; None if it is blank."""
        if place == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            return None
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self.table.rejection(place, f"no JSON ({one_line(error)})")
        if not isinstance(row, dict):
            return self.table.rejection(place, "not an object")
        columns = columns_among(tuple(row))
        if columns is None:
            return self.table.rejection(place, "no column of code")
        name = f"{self.table.file.name.split('.')[0]}-{place}"
        return columns.entry(row, name, self.table.origin, f"{self.table.stamp}@{place}")


columns_among = lru_cache(256)(Columns.among)


def open_lines(file: Path) -> BinaryIO:
    """A file's lines; unpacked if it is compressed, by the ending of its name."""
    if not file.name.lower().endswith(COMPRESSED):
        return file.open("rb")
    import io

    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(file)), 1 << 16)  # of a truncated file this much is lost


def skip_line(file: BinaryIO) -> int:
    """Reads up to the next line; how many bytes that were."""
    read = 0
    while part := file.readline(1 << 20):
        read += len(part)
        if part.endswith(b"\n"):
            break
    return read


def one_line(error: BaseException) -> str:
    """The first line of an error, without paths' lengths getting out of hand."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
