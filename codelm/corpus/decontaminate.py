"""Benchmark problems that must not be learned: found in a file by the hashes of their runs of lexemes.

A passage is one text of a problem: its prompt, or its solution without docstrings. A file holds a passage if it holds half of
the passage's distinct runs of RUN lexemes, in any place: so indentation, line breaks and what stands around do not matter,
and small changes do not help. Short passages must be there whole, or nearly so, for their parts are ordinary code.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codelm.config.corpus import Decontamination
from codelm.errors import UserError
from codelm.lexemes import Hashes, Lexemes, grams, lexemes

RUN = 10
"""Lexemes. In 9,083 installed Python files no problem has more than 44 % of its runs of 10; of runs of 8, up to 56 %."""
SHARE = 0.5
FEWEST = 10
"""Runs of a passage that have to be found, or all if it has fewer."""
SUSPICIOUS = 0.2
"""Of the runs needed."""
FOLDER = Path(__file__).parent / "data" / "benchmarks"
PROBE = b"one two three four five six seven eight nine ten"
ASIDE = re.compile(rb"""#[^\n]*+|"{3}[^"]*+(?:"{1,2}[^"]++)*+"*+|'{3}[^']*+(?:'{1,2}[^']++)*+'*+""")
"""Comments and long strings."""
MIN_FILTER_BITS, MAX_FILTER_BITS = 20, 26


@dataclass(frozen=True)
class Contamination:
    """The passages of benchmarks to look for. Can be pickled."""

    names: tuple[str, ...]
    """of each passage's problem"""
    runs: Hashes
    """of all passages, sorted; a run of two passages stands twice"""
    owners: npt.NDArray[np.int32]
    """the passage of each run"""

    @classmethod
    def load(cls, config: Decontamination) -> "Contamination":
        """Those of the settings. Raises UserError if a set of the user's is missing, broken or without text to look for."""
        sets = [cls.read(FOLDER / f"{name}.npz") for name in config.benchmarks]
        for file in config.files:
            found = cls.of(user_texts(Path(file)))
            if not found.names:
                raise UserError(f"{file} has no text of {RUN} words and marks or more", "give a set of longer texts")
            sets.append(found)
        return cls.joined(sets)

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> "Contamination":
        """Of (name, text). Texts of fewer than RUN lexemes are left out, and so are repeated ones."""
        names, runs = [], []
        known: set[bytes] = set()
        for name, text in texts:
            found = np.unique(grams(lexemes(text.encode(errors="replace")).hashes, RUN))
            if len(found) and found.tobytes() not in known:
                known.add(found.tobytes())
                names.append(name)
                runs.append(found)
        return cls.sorted(names, runs, [np.full(len(found), owner) for owner, found in enumerate(runs)])

    @classmethod
    def joined(cls, sets: list["Contamination"]) -> "Contamination":
        """All passages of several."""
        starts = np.cumsum([0] + [len(one.names) for one in sets])
        owners = [one.owners + start for one, start in zip(sets, starts, strict=False)]
        return cls.sorted([name for one in sets for name in one.names], [one.runs for one in sets], owners)

    @classmethod
    def sorted(cls, names: list[str], runs: list[Hashes], owners: list[npt.NDArray[Any]]) -> "Contamination":
        """Puts the runs in order."""
        run = np.concatenate([*runs, np.empty(0, dtype=np.uint64)])
        owner = np.concatenate([*owners, np.empty(0, dtype=np.int32)]).astype(np.int32)
        order = np.argsort(run, kind="stable")
        return cls(tuple(names), run[order], owner[order])

    @classmethod
    def read(cls, path: Path) -> "Contamination":
        """What `write` wrote. Raises ValueError if the lexemes of that time were others."""
        with np.load(path) as file:
            if file["probe"] != probe():
                raise ValueError(f"{path} was made with other lexemes; run scripts/benchmark_hashes.py")
            return cls(tuple(file["names"].tolist()), file["runs"], file["owners"])

    def write(self, path: Path) -> None:
        """Writes hashes and names, no text."""
        np.savez_compressed(path, names=np.array(self.names), runs=self.runs, owners=self.owners, probe=probe())

    @cached_property
    def needed(self) -> npt.NDArray[np.int64]:
        """How many runs of each passage a file has to hold."""
        counts = np.bincount(self.owners, minlength=len(self.names))
        return np.minimum(counts, np.maximum(np.ceil(SHARE * counts).astype(np.int64), FEWEST))

    @cached_property
    def filter(self) -> npt.NDArray[np.bool_]:
        """First bits of a hash → whether any run has them: small enough for a core's cache."""
        bits = min(max(MIN_FILTER_BITS, (16 * len(self.runs)).bit_length()), MAX_FILTER_BITS)
        found = np.zeros(1 << bits, dtype=np.bool_)
        found[self.runs >> np.uint64(64 - bits)] = True
        return found

    def find(self, found: Lexemes, data: bytes) -> str | None:
        """The benchmark problem of which a text holds most of a prompt or solution: humaneval/HumanEval/23.

        found: the lexemes of data. A text that has a part of those needed is looked at again without its docstrings and
        comments, for a solution may stand there with others.
        """
        share = self.shares(found.hashes)
        if share is not None and SUSPICIOUS <= share.max() < 1:
            share = self.shares(found.hashes[~commented(found, data)])
        if share is None or share.max() < 1:
            return None
        return self.names[int(np.argmax(share))]

    def shares(self, hashes: Hashes) -> npt.NDArray[np.float64] | None:
        """Of each passage, the runs found / those needed; None if there are no runs of any."""
        runs = grams(hashes, RUN)
        shift = np.uint64(65 - len(self.filter).bit_length())
        runs = np.unique(runs[self.filter.take((runs >> shift).view(np.int64))])
        first, last = (np.searchsorted(self.runs, runs, side=side) for side in ("left", "right"))
        hits = [self.owners[i:j] for i, j in zip(first.tolist(), last.tolist(), strict=True) if i < j]
        return np.bincount(np.concatenate(hits), minlength=len(self.names)) / self.needed if hits else None


def commented(found: Lexemes, data: bytes) -> npt.NDArray[np.bool_]:
    """Which lexemes stand in Python's docstrings and comments, or in what looks like them."""
    spans = np.array([match.span() for match in ASIDE.finditer(data)], dtype=np.int64).reshape(-1, 2)
    return np.searchsorted(spans[:, 0], found.starts, side="right") > np.searchsorted(spans[:, 1], found.starts, side="right")


def probe() -> np.uint64:
    """The hash of a text that anybody knows, by which hashes of another making are told apart."""
    return grams(lexemes(PROBE).hashes, RUN)[0]


def user_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of a JSONL file, of every string at any depth of a row. A name that ends in .gz is unpacked."""
    fix = "give a JSONL file, one JSON value a line"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    texts = list(strings(row))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}, is not JSON ({error})", fix) from error
                yield from ((f"{path.name}:{number}", text) for text in texts)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})", fix) from error


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value but the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)
