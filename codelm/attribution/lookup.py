"""Text → where it stands verbatim in the corpus. Needs numpy only."""

import json
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from codelm.attribution.layout import ARRAYS, DOCS, MAX_PLACES, META, VERSION, file_name
from codelm.attribution.winnow import GRAM, RUN, Indices, choices, run_hashes
from codelm.errors import UserError
from codelm.lexemes import Hashes, Lexemes, grams, lexemes

CONTEXT = RUN // 2
"""Lexemes of the context that count, so that at least half of the shortest match is text."""
CONTEXT_CHARS = 4096
BLOCK = 256
"""Lexemes of the text compared at once."""
PAGE = 4096
"""Bytes that are read from the disk together, at least."""
PIECE = 1 << 24
"""Bytes that are read ahead between two looks at whether to go on."""


@dataclass(frozen=True)
class Source:
    """A file of the corpus, and the lines in it, counted from 1."""

    repo: str
    path: str
    start_line: int
    end_line: int
    license: str | None
    """SPDX expression"""
    version: str | None
    source_url: str | None
    also_in: list[dict[str, Any]]
    """repo, path and license of the files with the very same text"""


@dataclass(frozen=True)
class Match:
    """A range of a text that stands verbatim in the corpus: the same lexemes, whatever the space between them."""

    start: int
    """in characters of the text, from 0"""
    end: int
    start_line: int
    """from 1"""
    end_line: int
    lexemes: int
    """of the run, with those in the context"""
    kind: Literal["match", "boilerplate"]
    """boilerplate: stands in more than MAX_PLACES files"""
    n_files: int
    """how many files of the corpus hold it; at most so many where they are more than the sources"""
    sources: list[Source]
    """in the order of the corpus; only some of those that hold boilerplate, the longest runs first"""


class Places(NamedTuple):
    """Lexemes of the text beside equal ones of the corpus. Arrays of one length."""

    query: Indices
    doc: Indices
    diagonal: Indices
    """index of the corpus's lexeme less that of the text's"""


class Runs(NamedTuple):
    """Runs of equal lexemes, as long as they can be. Arrays of one length."""

    start: Indices
    """in lexemes of the text"""
    end: Indices
    doc: Indices
    diagonal: Indices


@dataclass(frozen=True)
class Range:
    """A range of lexemes of the text, with the runs that make it."""

    start: int
    end: int
    n_files: int
    runs: Sequence[tuple[int, int, int, int]]
    """start, end, document, diagonal"""

    @property
    def boilerplate(self) -> bool:
        """Whether it stands nearly everywhere."""
        return self.n_files > MAX_PLACES


class Index:
    """An attribution index, mapped into memory. Threads may share it."""

    def __init__(self, meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], docs: bytes | mmap.mmap) -> None:
        self.meta = meta
        self._docs = docs
        self._hash, self._doc, self._pos = arrays["hash"], arrays["doc"], arrays["pos"]
        self._common = arrays["common"]
        self._run_hash, self._run_doc, self._run_pos = arrays["run_hash"], arrays["run_doc"], arrays["run_pos"]
        self._run_files = arrays["run_files"]
        self._lexeme, self._line = arrays["lexeme"], arrays["line"]
        self._table = arrays["table"].view("<i8").reshape(-1, 3)
        self._mapped = [*arrays.values(), np.frombuffer(docs, np.uint8)]

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """The index in a folder. Raises UserError if there is none, or if it is broken or of another version."""
        fix = "build the corpus again"
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            if meta["version"] != VERSION:
                raise UserError(f"{folder} is an attribution index of version {meta['version']}, not {VERSION}", fix)
            for name in (*map(file_name, ARRAYS), DOCS):
                if (folder / name).stat().st_size != meta["sizes"][name]:
                    raise UserError(f"{folder / name} is not as long as it was written", fix)
            arrays = {name: np.frombuffer(mapped(folder / file_name(name)), dtype) for name, dtype in ARRAYS.items()}
            return cls(meta, arrays, mapped(folder / DOCS))
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename}: no attribution index there", "build the corpus with `attribution: true`"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is not a readable attribution index: {error}", fix) from error

    def read_ahead(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Does what the first lookup would have to: reads all of it from the disk, and makes what is made at first use.

        Lookups of other threads need not wait for the end. ended: asked now and then whether to leave it at that.
        """
        for array in self._mapped:
            data = array.view(np.uint8)
            for start in range(0, len(data), PIECE):
                if ended():
                    return
                np.max(data[start : start + PIECE : PAGE])
        if ended():
            return
        self.matches("x = 1\n" * RUN)
        if len(self._lexeme):  # the corpus's first lexemes, for they are surely there
            first = np.zeros(1, dtype=np.int64)
            self._runs(self._lexeme[: 2 * RUN], Places(first, first, first), RUN, 0)

    def matches(self, text: str, context: str = "", min_lexemes: int = RUN) -> list[Match] | None:
        """The ranges of `text` that stand verbatim in the corpus, from its start on; None if it is too short to tell.

        context: what stands left of the text; its last lexemes count, the matches lie in the text. min_lexemes: of a run, at
        least RUN. A range is as long as it can be and in no other; those of boilerplate that overlap are one.
        """
        if min_lexemes < RUN:
            raise ValueError(f"runs of fewer than {RUN} lexemes are not sure to be found")
        before, data = (part.encode("utf-8", "replace") for part in (context[-CONTEXT_CHARS:], text))
        found = lexemes(before + data)
        inside = int(np.searchsorted(found.ends, len(before), side="right"))  # lexemes before the first that ends in the text
        skip = max(inside - CONTEXT, 0)
        found = Lexemes(found.hashes[skip:], found.starts[skip:], found.ends[skip:])
        first = inside - skip
        if len(found.hashes) < min_lexemes or first == len(found.hashes):
            return None
        places, files = self._places(found.hashes)
        if not len(places.query):
            return []
        runs = self._runs(found.hashes.astype(np.uint32), places, min_lexemes, first)
        return [self._match(text, data, len(before), found, first, piece) for piece in merged(ranges(runs, files))]

    def _places(self, hashes: Hashes) -> tuple[Places, Indices]:
        """Where a fingerprint of the text stands in the corpus; and for each run of RUN lexemes of it that has a common
        fingerprint, how many documents hold it, else 0.
        """
        fingerprints = grams(hashes, GRAM)
        chosen = choices(fingerprints)
        query = chosen[np.diff(chosen, prepend=-1) != 0]
        files = np.zeros(len(chosen), dtype=np.int64)
        at, entry = entries(self._hash, fingerprints[query])
        places = self._beside(query[at], self._doc[entry], self._pos[entry])
        common = np.zeros(len(fingerprints), dtype=bool)
        common[query] = contains(self._common, fingerprints[query])
        starts = np.flatnonzero(common[chosen])
        if len(starts):
            at, entry = entries(self._run_hash, run_hashes(hashes.astype(np.uint32), starts))
            files[starts[at]] = self._run_files[entry]
            around = self._beside(starts[at], self._run_doc[entry], self._run_pos[entry])
            places = Places(*map(np.concatenate, zip(places, around, strict=True)))
        return places, files

    def _beside(self, query: Indices, doc: npt.NDArray[np.uint32], pos: npt.NDArray[np.uint32]) -> Places:
        return Places(query, doc.astype(np.int64), self._table[doc, 0] + pos - query)

    def _runs(self, text: npt.NDArray[np.uint32], places: Places, min_lexemes: int, first: int) -> Runs:
        """The runs through `places` that are long enough and reach `first`."""
        blocks = [
            self._runs_in_block(text, block, places, (places.query >= block) & (places.query < block + BLOCK))
            for block in np.unique(places.query // BLOCK) * BLOCK
        ]
        runs = joined(Runs(*map(np.concatenate, zip(*blocks, strict=True))))
        wanted = (runs.end - runs.start >= min_lexemes) & (runs.end > first)
        return Runs(*(array[wanted] for array in runs))

    def _runs_in_block(self, text: npt.NDArray[np.uint32], block: int, places: Places, here: npt.NDArray[np.bool_]) -> Runs:
        """The runs through the places of a block and of RUN lexemes around it, in which what other blocks find overlaps."""
        diagonal, doc = places.diagonal[here], places.doc[here]
        order = np.lexsort((doc, diagonal))
        diagonal, doc = diagonal[order], doc[order]
        new = (np.diff(diagonal, prepend=diagonal[0] - 1) != 0) | (np.diff(doc, prepend=doc[0]) != 0)
        diagonal, doc = diagonal[new], doc[new]

        low, high = max(block - RUN, 0), min(block + BLOCK + RUN, len(text))
        begin, end = self._table[doc, 0] - diagonal, self._table[doc + 1, 0] - diagonal  # of the document, beside the text
        query = np.arange(low, high)
        beside = diagonal[:, None] + query
        np.clip(beside, 0, len(self._lexeme) - 1, out=beside)
        equal = np.zeros((len(doc), len(query) + 2), dtype=bool)
        equal[:, 1:-1] = self._lexeme[beside] == text[low:high]
        equal[:, 1:-1] &= (query >= begin[:, None]) & (query < end[:, None])
        row, start = np.nonzero(equal[:, 1:] & ~equal[:, :-1])
        stop = np.nonzero(equal[:, :-1] & ~equal[:, 1:])[1]
        long = stop - start >= RUN
        row = row[long]
        return Runs(start[long] + low, stop[long] + low, doc[row], diagonal[row])

    def _match(self, text: str, data: bytes, before: int, found: Lexemes, first: int, piece: Range) -> Match:
        """What to tell of a range. before: bytes of context left of the text's `data`; first: the first lexeme in the text."""
        start = max(int(found.starts[max(piece.start, first)]) - before, 0)
        end = int(found.ends[piece.end - 1]) - before
        if not text.isascii():
            start, end = (len(data[:place].decode("utf-8", "replace")) for place in (start, end))
        sources: dict[int, Source] = {}
        for run_start, run_end, doc, diagonal in piece.runs:
            if doc not in sources:
                sources[doc] = self._source(doc, run_start + diagonal, run_end + diagonal)
        return Match(
            start=start,
            end=end,
            start_line=text.count("\n", 0, start) + 1,
            end_line=text.count("\n", 0, end) + 1,
            lexemes=piece.end - piece.start,
            kind="boilerplate" if piece.boilerplate else "match",
            n_files=piece.n_files,
            sources=list(sources.values()),
        )

    def _source(self, doc: int, start: int, end: int) -> Source:
        """A document, and the lines of its lexemes from `start` to `end`, counted in the corpus."""
        (begin, line, byte), (_, next_line, next_byte) = self._table[doc : doc + 2].tolist()
        lines = self._line[line:next_line]
        start_line, end_line = np.searchsorted(lines, [start - begin, end - 1 - begin], side="right").tolist()
        return Source(start_line=start_line, end_line=end_line, **json.loads(self._docs[byte:next_byte]))


def mapped(path: Path) -> bytes | mmap.mmap:
    """A file in memory, read when it is touched. An empty one cannot be mapped."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def contains(table: Hashes, keys: Hashes) -> npt.NDArray[np.bool_]:
    """Which keys a sorted table holds."""
    found: npt.NDArray[np.bool_] = np.searchsorted(table, keys, "right") > np.searchsorted(table, keys, "left")
    return found


def entries(table: Hashes, keys: Hashes) -> tuple[Indices, Indices]:
    """All pairs of a key's index and the index of its entry in a sorted table."""
    first = np.searchsorted(table, keys, "left")
    count = np.searchsorted(table, keys, "right") - first
    key = np.repeat(np.arange(len(keys)), count)
    return key, np.arange(len(key)) + np.repeat(first - np.cumsum(count) + count, count)


def joined(runs: Runs) -> Runs:
    """Runs of one diagonal that overlap or touch, as one; ordered by place in the text, longest first, then document."""
    order = np.lexsort((runs.start, runs.doc, runs.diagonal))
    start, end, doc, diagonal = (array[order] for array in runs)
    if not len(start):
        return runs
    new = np.ones(len(start), dtype=bool)
    new[1:] = (diagonal[1:] != diagonal[:-1]) | (doc[1:] != doc[:-1]) | (start[1:] > end[:-1])
    first = np.flatnonzero(new)
    start, end, doc, diagonal = start[first], np.maximum.reduceat(end, first), doc[first], diagonal[first]
    order = np.lexsort((diagonal, doc, -end, start))
    return Runs(start[order], end[order], doc[order], diagonal[order])


def ranges(runs: Runs, files: Indices) -> list[Range]:
    """The ranges of ordered runs that lie in no other. files: as from `_places`."""
    found: list[Range] = []
    reached = 0
    rows = list(zip(*(array.tolist() for array in runs), strict=True))
    place = 0
    while place < len(rows):
        start, end = rows[place][:2]
        same = place
        while same < len(rows) and rows[same][:2] == (start, end):
            same += 1
        if end > reached:
            # where not every run in it is a common one, all documents that hold it are here
            held = len({doc for _, _, doc, _ in rows[place:same]})
            found.append(Range(start, end, max(held, int(files[start : end - RUN + 1].min())), rows[place:same]))
            reached = end
        place = same
    return found


def merged(found: list[Range]) -> list[Range]:
    """Ranges with those of boilerplate made one where they overlap."""
    result: list[Range] = []
    for piece in found:
        last = result[-1] if result else None
        if last and last.boilerplate and piece.boilerplate and piece.start <= last.end:
            runs = sorted([*last.runs, *piece.runs], key=lambda run: run[0] - run[1])
            result[-1] = Range(last.start, piece.end, min(last.n_files, piece.n_files), runs)
        else:
            result.append(piece)
    return result
