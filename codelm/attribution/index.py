"""Corpus shards → attribution index. Documents are read once; postings are sorted on disk, a part at a time."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from codelm.attribution.layout import ARRAYS, DOCS, MAX_PLACES, META, U64, VERSION, file_name
from codelm.attribution.winnow import GRAM, RUN, WINDOW, Indices, choices, run_hashes
from codelm.errors import UserError
from codelm.lexemes import Hashes, grams, lexemes
from codelm.progress import Progress, silent
from codelm.stage import write_atomically

ABOUT = ("repo", "path", "license", "version", "source_url", "also_in")
BATCH_ROWS = 64
BATCH_BYTES = 1 << 20
PARTITIONS = 64
SHIFT = np.uint64(58)
POSTING = np.dtype([("hash", "<u8"), ("doc", "<u4"), ("pos", "<u4")])
CHUNK = 1 << 16
"""Places whose runs are hashed at once: 16 runs each, 30 MB."""

Postings = npt.NDArray[np.void]


def build_index(folder: Path, shards: Sequence[Path], progress: Progress = silent) -> dict[str, Any]:
    """Writes the index of the documents in `shards`, in their order, into an empty folder (see `layout`). Returns meta.json.

    The same shards give the same bytes. Of the postings, 1/64 are in memory at a time. Raises UserError if a shard is not
    readable.
    """
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".")))
        files = {name: stack.enter_context((folder / file_name(name)).open("wb")) for name in ARRAYS}
        fingerprints, runs = (stack.enter_context(Partitions(scratch, name)) for name in ("fingerprints", "runs"))
        counts = scan(folder, files, shards, fingerprints, progress)
        common = write_fingerprints(files, fingerprints)
        for file in files.values():
            file.flush()
        find_runs(folder, common, runs)
        write_runs(files, runs)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    entries = {name: sizes[file_name(name)] // dtype.itemsize for name, dtype in ARRAYS.items()}
    meta = {
        "version": VERSION,
        "gram": GRAM,
        "window": WINDOW,
        "max_places": MAX_PLACES,
        **counts,
        "lexemes": entries["lexeme"],
        "lines": entries["line"],
        "fingerprints": entries["hash"],
        "common": entries["common"],
        "runs": entries["run_hash"],
        "sizes": sizes,
    }
    write_atomically(folder / META, json.dumps(meta, indent=2) + "\n")
    return meta


class Partitions:
    """Postings on disk in files by the first bits of their hashes, so that each file can be sorted in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.paths = [folder / f"{name}-{number:02}" for number in range(PARTITIONS)]
        self.files = [path.open("wb") for path in self.paths]

    def __enter__(self) -> "Partitions":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files:
            file.close()

    def add(self, hashes: Hashes, docs: Indices, positions: Indices) -> None:
        """Takes postings, later ones at later places of the corpus."""
        part = (hashes >> SHIFT).astype(np.uint8)
        order = np.argsort(part, kind="stable")
        postings = np.empty(len(order), dtype=POSTING)
        postings["hash"], postings["doc"], postings["pos"] = hashes[order], docs[order], positions[order]
        bounds = np.searchsorted(part[order], np.arange(PARTITIONS + 1)).tolist()
        for file, start, end in zip(self.files, bounds, bounds[1:], strict=False):
            file.write(postings[start:end].tobytes())

    def sorted(self) -> Iterator[Postings]:
        """All postings by hash, document and position, a file at a time."""
        for path, file in zip(self.paths, self.files, strict=True):
            file.flush()
            postings = np.fromfile(path, dtype=POSTING)
            yield postings[np.argsort(np.ascontiguousarray(postings["hash"]), kind="stable")]


def scan(
    folder: Path, files: Mapping[str, IO[bytes]], shards: Sequence[Path], fingerprints: Partitions, progress: Progress
) -> dict[str, int]:
    """Reads every document: its lexemes, lines and what is told of it go to `files`, its fingerprints to the partitions."""
    docs = total = 0
    start = np.zeros(3, dtype=np.int64)  # a row of the table
    with (folder / DOCS).open("wb") as told:
        for contents, about in batches(shards, progress):
            offsets = np.cumsum([0] + [len(content) + 1 for content in contents])
            data = b"\n".join(contents)
            found = lexemes(data)
            bounds = np.searchsorted(found.starts, offsets)  # each document's first lexeme, and the end
            lengths = np.diff(bounds)
            write(files["lexeme"], found.hashes.astype("<u4"))

            hashes = grams(found.hashes, GRAM)
            owner = np.repeat(np.arange(len(contents)), lengths)
            chosen = choices(hashes)
            chosen = chosen[owner[: len(chosen)] == owner[RUN - 1 :]]  # windows that lie in one document
            chosen = chosen[np.diff(chosen, prepend=-1) != 0]
            fingerprints.add(hashes[chosen], docs + owner[chosen], chosen - bounds[owner[chosen]])

            breaks = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
            begins = np.concatenate([[0], breaks + 1])  # of lines; every document begins one
            line_owner = np.searchsorted(offsets, begins, side="right") - 1
            write(files["line"], (np.searchsorted(found.starts, begins) - bounds[line_owner]).astype("<u4"))

            texts = [json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in about]
            told.write(b"".join(texts))
            sizes = np.stack([lengths, np.bincount(line_owner, minlength=len(contents)), [len(text) for text in texts]], axis=1)
            ends = start + np.cumsum(sizes, axis=0)
            write(files["table"], (ends - sizes).astype(U64))
            start = ends[-1]
            docs += len(contents)
            total += len(data) - len(contents) + 1
    write(files["table"], start.astype(U64))
    return {"documents": docs, "bytes": total}


def batches(shards: Sequence[Path], progress: Progress) -> Iterator[tuple[list[bytes], list[dict[str, Any]]]]:
    """Contents and what is told of them, about a megabyte at a time. Raises UserError if a shard is not readable."""
    contents: list[bytes] = []
    about: list[dict[str, Any]] = []
    rows = done = 0
    try:
        for path in shards:
            rows += pq.read_metadata(path).num_rows
        for path in shards:
            with pq.ParquetFile(path) as source:
                for batch in source.iter_batches(BATCH_ROWS, columns=[*ABOUT, "content"]):
                    contents += batch.column("content").cast(pa.binary()).to_pylist()
                    about += [{**row, "also_in": row["also_in"] or []} for row in batch.select(ABOUT).to_pylist()]
                    if sum(map(len, contents)) >= BATCH_BYTES:
                        done += len(contents)
                        yield contents, about
                        contents, about = [], []
                        progress(done, rows)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not readable: {reason}", "build the corpus again") from error
    if contents:
        yield contents, about
    progress(rows, rows)


def write_fingerprints(files: Mapping[str, IO[bytes]], fingerprints: Partitions) -> tuple[Indices, Indices]:
    """Writes the postings, but those of common fingerprints: of these it returns the documents and positions."""
    docs, positions = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for postings in fingerprints.sorted():
        first, count = groups(postings["hash"])
        common = np.repeat(count > MAX_PLACES, count)
        for name in ("hash", "doc", "pos"):
            write(files[name], postings[name][~common])
        write(files["common"], postings["hash"][first[count > MAX_PLACES]])
        docs.append(postings["doc"][common].astype(np.int64))
        positions.append(postings["pos"][common].astype(np.int64))
    return np.concatenate(docs), np.concatenate(positions)


def find_runs(folder: Path, common: tuple[Indices, Indices], runs: Partitions) -> None:
    """Hands `runs` every run of RUN lexemes that a common fingerprint lies in."""
    docs, positions = common
    if not len(docs):
        return
    begins = np.fromfile(folder / file_name("table"), dtype=U64).reshape(-1, 3)[:, 0].astype(np.int64)
    places = np.sort(begins[docs] + positions)
    new = np.minimum(np.diff(places, prepend=-1), WINDOW)  # of the WINDOW runs around each, those not around the one before
    for chunk in range(0, len(places), CHUNK):
        place, count = places[chunk : chunk + CHUNK], new[chunk : chunk + CHUNK]
        starts = np.arange(count.sum()) + np.repeat(place + 1 - np.cumsum(count), count)
        owner = np.searchsorted(begins, starts, side="right") - 1
        # a run that begins before the document of its fingerprint or ends behind it is none
        inside = starts + RUN <= begins[owner + 1]
        starts, owner = starts[inside], owner[inside]
        # mapped anew each time, so that what was read counts as memory no longer
        lexeme = np.memmap(folder / file_name("lexeme"), dtype=ARRAYS["lexeme"], mode="r")
        runs.add(run_hashes(lexeme, starts), owner, starts - begins[owner])


def write_runs(files: Mapping[str, IO[bytes]], runs: Partitions) -> None:
    """Writes each run once for every document that holds it, and only once if those are many."""
    for postings in runs.sorted():
        hashes, docs = postings["hash"], postings["doc"]
        other = (hashes[1:] != hashes[:-1]) | (docs[1:] != docs[:-1])
        held = postings[np.concatenate([[True], other])[: len(postings)]]
        first, count = groups(held["hash"])
        keep = np.repeat(count <= MAX_PLACES, count)
        keep[first] = True
        for name in ("hash", "doc", "pos"):
            write(files[f"run_{name}"], held[name][keep])
        write(files["run_files"], np.repeat(count, count)[keep].astype("<u4"))


def groups(hashes: Hashes) -> tuple[Indices, Indices]:
    """Where each distinct value of a sorted array begins, and how often it stands there."""
    first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)])
    return first, np.diff(first, append=len(hashes))


def write(file: IO[bytes], array: npt.NDArray[Any]) -> None:
    """Appends an array."""
    file.write(np.ascontiguousarray(array).tobytes())
