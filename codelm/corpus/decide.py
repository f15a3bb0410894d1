"""What only all files together tell: copies, the split, balance, order, shards. Reads short columns, not the texts."""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from codelm.config.corpus import CorpusConfig, Dedup
from codelm.corpus.balance import balance, mixture
from codelm.corpus.near_duplicates import chance, drop_near_duplicates, shingles
from codelm.corpus.order import repository_order
from codelm.corpus.rows import COPIES, GROUP_ROWS, REJECTED, RowWriter
from codelm.corpus.split import TRAIN, split
from codelm.errors import UserError
from codelm.lexemes import lexemes

SHARD_BYTES = 64_000_000
"""Of source in a snapshot shard, before compression."""

LEAST_CHANCE = 0.9
"""Of a pair at the threshold to be compared; below it, a warning is due."""

COLUMNS = ["repo", "path", "language", "license", "size", "blob_sha", "text_hash", "imports"]

CHOSEN = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("order", pa.int64(), nullable=False),
        pa.field("also_in", COPIES),
    ]
)
"""Which candidate goes into a shard, and what it gets there."""


@dataclass
class Decisions:
    """What became of the candidates as a whole."""

    shards: list[tuple[str, int]] = field(default_factory=list)
    """name and bytes of source"""
    warnings: list[str] = field(default_factory=list)
    mixture: dict[str, Any] = field(default_factory=dict)


class Candidates:
    """The short columns of all candidates, in the order of the pieces: that of the sources, then of repo and path."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.parquet"))
        tables = [pq.read_table(path, columns=COLUMNS) for path in self.files]
        self.starts = np.cumsum([0, *(table.num_rows for table in tables)], dtype=np.int64)
        whole = pa.concat_tables(tables)
        self.repo: list[str] = whole["repo"].to_pylist()
        self.path: list[str] = whole["path"].to_pylist()
        self.language: list[str] = whole["language"].to_pylist()
        self.license: list[str | None] = whole["license"].to_pylist()
        self.imports: list[list[str]] = whole["imports"].to_pylist()
        self.text_hash: list[bytes] = whole["text_hash"].to_pylist()
        self.blob_sha: list[str] = whole["blob_sha"].to_pylist()
        self.size = whole["size"].to_numpy()
        self._group = lru_cache(maxsize=64)(self._read_group)

    def __len__(self) -> int:
        return len(self.repo)

    def place(self, index: int) -> str:
        """How a candidate is called."""
        return f"{self.repo[index]}/{self.path[index]}"

    def at(self, index: int) -> tuple[int, int]:
        """Which file, and which row of it."""
        rank = int(np.searchsorted(self.starts, index, side="right")) - 1
        return rank, index - int(self.starts[rank])

    def signatures(self, indices: Sequence[int], width: int) -> npt.NDArray[np.uint32]:
        """(len(indices), width) MinHash signatures."""
        found = np.empty((len(indices), width), dtype=np.uint32)
        wanted = np.asarray(indices, dtype=np.int64)
        for rank, path in enumerate(self.files):
            here = np.flatnonzero((wanted >= self.starts[rank]) & (wanted < self.starts[rank + 1]))
            column = pq.read_table(path, columns=["signature"])["signature"]
            if len(here):
                rows = column.take(pa.array(wanted[here] - self.starts[rank])).to_pylist()
                found[here] = np.frombuffer(b"".join(rows), dtype="<u4").reshape(len(rows), width)
        return found

    def shingles(self, index: int, config: Dedup) -> npt.NDArray[np.uint64]:
        """The shingles of a candidate, from its text."""
        rank, row = self.at(index)
        text = self._group(rank, row // GROUP_ROWS)[row % GROUP_ROWS].as_py()
        return shingles(lexemes(text.encode()).hashes, config)

    def _read_group(self, rank: int, group: int) -> Any:
        with pq.ParquetFile(self.files[rank]) as file:
            return file.read_row_group(group, columns=["content"])["content"]


def decide(work: Path, config: CorpusConfig, sources: Sequence[str]) -> Decisions:
    """Writes `chosen/<shard>.parquet` and `rejected/all.parquet`, and says what came of it.

    work: holds `candidates/`. sources: of each candidates file, as the user gave it. Raises ValueError if there are fewer
    than two packages to split, UserError if the opt-outs leave nothing of one split.
    """
    found = Candidates(work / "candidates")
    kept, copies, rejected = unique(found, config.dedup)
    splits = split(sizes_of(found, kept), config.valid_share, config.seed)
    train = [i for i in kept if splits[found.repo[i]][found.path[i]] == TRAIN]
    balanced = balance(
        [found.language[i] for i in train], found.size[train], [found.place(i) for i in train], config.balance, config.seed
    )
    cut = {i for i, keep in zip(train, balanced.keep, strict=True) if not keep}
    for i in cut:
        rejected.append((i, "balance", f"{found.language[i]} is capped at {config.balance.max_language_share:.0%}"))
    left = []
    for i in kept:
        if i in cut:
            continue
        pattern = opted_out([found.place(i), *(f"{c['repo']}/{c['path']}" for c in copies[i])], config.opt_outs)
        if pattern:
            rejected.append((i, "opt_out", pattern))
        else:
            left.append(i)
    for name in sorted({splits[found.repo[i]][found.path[i]] for i in kept}):
        if all(splits[found.repo[i]][found.path[i]] != name for i in left):
            raise UserError(f"opt_outs leave no {name} code", "take a pattern out of opt_outs, or add sources")

    with RowWriter(work / "rejected" / "all.parquet", REJECTED) as file:
        for i, reason, detail in sorted(rejected):
            file.write(
                {
                    "repo": found.repo[i],
                    "path": found.path[i],
                    "size": int(found.size[i]),
                    "blob_sha": found.blob_sha[i],
                    "language": found.language[i],
                    "license": found.license[i],
                    "reason": reason,
                    "detail": detail,
                }
            )

    decisions = Decisions(warnings=balanced.warnings)
    used = {detail for _, reason, detail in rejected if reason == "opt_out"}
    decisions.warnings += [
        f"opt_outs: {pattern!r} matches nothing that would be in the corpus"
        for pattern in config.opt_outs
        if pattern not in used and not any(matches(pattern)(found.place(i)) for i in range(len(found)))
    ]
    if config.dedup.near and (share := chance(config.dedup.threshold, config.dedup)) < LEAST_CHANCE:
        decisions.warnings.append(
            f"dedup: {config.dedup.bands} bands of {config.dedup.rows} rows compare only {share:.0%} of pairs that are just "
            f"{config.dedup.threshold:.0%} similar; more bands or fewer rows find more"
        )
    position = positions(found, left)
    for name, members in shards(found, left, splits, position):
        with RowWriter(work / "chosen" / f"{name}.parquet", CHOSEN) as file:
            for i in members:
                rank, row = found.at(i)
                file.write({"rank": rank, "row": row, "order": position[i], "also_in": copies[i]})
        decisions.shards.append((name, int(found.size[members].sum())))
    source_of = {found.repo[i]: sources[found.at(i)[0]] for i in left}
    train = [i for i in left if splits[found.repo[i]][found.path[i]] == TRAIN]
    decisions.mixture = mixture(
        ((found.repo[i], found.language[i], int(found.size[i])) for i in train), source_of, config.balance.alpha
    )
    return decisions


def unique(found: Candidates, config: Dedup) -> tuple[list[int], dict[int, list[dict[str, Any]]], list[tuple[int, str, str]]]:
    """The candidates to keep, the places of each one's copies, and (index, reason, detail) of the copies.

    The first in order is the one that stays. A near copy brings the places of its own copies along.
    """
    first: dict[bytes, int] = {}
    exact: dict[int, list[int]] = defaultdict(list)
    for index, text_hash in enumerate(found.text_hash):
        keeper = first.setdefault(text_hash, index)
        if keeper != index:
            exact[keeper].append(index)
    single = list(first.values())
    near: dict[int, tuple[int, float]] = {}
    if config.near:
        signatures = found.signatures(single, config.bands * config.rows)
        dropped = drop_near_duplicates(range(len(single)), signatures, lambda i: found.shingles(single[i], config), config)
        near = {single[i]: (single[keeper], similarity) for i, (keeper, similarity) in dropped.items()}

    kept = [i for i in single if i not in near]
    copies: dict[int, list[dict[str, Any]]] = {i: [] for i in kept}
    rejected: list[tuple[int, str, str]] = []

    def copy(index: int, keeper: int, kind: str) -> None:
        copies[keeper].append(
            {"repo": found.repo[index], "path": found.path[index], "license": found.license[index], "kind": kind}
        )

    for i in single:
        keeper, kind = (near[i][0], "near") if i in near else (i, "exact")
        if i in near:
            copy(i, keeper, kind)
            rejected.append((i, "near_duplicate", f"{found.place(keeper)} (Jaccard {near[i][1]:.2f})"))
        for same in exact[i]:
            copy(same, keeper, kind)
            rejected.append((same, "duplicate", found.place(i)))
    return kept, copies, rejected


def sizes_of(found: Candidates, kept: Sequence[int]) -> dict[str, dict[str, int]]:
    """Repo → path → bytes."""
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for i in kept:
        of_repo = sizes[found.repo[i]]
        of_repo[found.path[i]] = of_repo.get(found.path[i], 0) + int(found.size[i])
    return sizes


def opted_out(places: Sequence[str], patterns: Sequence[str]) -> str | None:
    """The first pattern that one of the places of a text falls under."""
    return next((pattern for pattern in patterns if any(matches(pattern)(place) for place in places)), None)


@lru_cache(maxsize=1024)
def matches(pattern: str) -> Any:
    """A pattern of repo/path with * for anything, "/" too; it takes along what stands below."""
    plain = pattern.rstrip("/")
    return re.compile(f"{fnmatch.translate(plain)}|{fnmatch.translate(plain + '/*')}").match


def positions(found: Candidates, kept: Sequence[int]) -> dict[int, int]:
    """Candidate → its position in its repository, dependencies first."""
    members: dict[str, list[int]] = defaultdict(list)
    for i in kept:
        members[found.repo[i]].append(i)
    position: dict[int, int] = {}
    for indices in members.values():
        order = repository_order(
            [found.path[i] for i in indices], [found.imports[i] for i in indices], [found.language[i] for i in indices]
        )
        position |= dict(zip(indices, order, strict=True))
    return position


def shards(
    found: Candidates, kept: Sequence[int], splits: dict[str, dict[str, str]], position: dict[int, int]
) -> Iterator[tuple[str, list[int]]]:
    """(name, candidates) of each shard: a split's repositories one after the other, each in its order."""
    rank_of_repo = {repo: rank for rank, repo in enumerate(dict.fromkeys(found.repo[i] for i in kept))}
    by_split: dict[str, list[int]] = defaultdict(list)
    for i in sorted(kept, key=lambda i: (rank_of_repo[found.repo[i]], position[i])):
        by_split[splits[found.repo[i]][found.path[i]]].append(i)
    for name, members in sorted(by_split.items()):
        number = size = first = 0
        for end, i in enumerate(members, start=1):
            size += int(found.size[i])
            if size >= SHARD_BYTES or end == len(members):
                yield f"{name}-{number:05d}", members[first:end]
                number, size, first = number + 1, 0, end
