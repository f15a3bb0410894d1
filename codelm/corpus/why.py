"""Why a file is in a corpus, or why it is not."""

import difflib
import os
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codelm.config.corpus import KINDS, STDLIB
from codelm.corpus.pack import rows_of
from codelm.corpus.paths import matched
from codelm.corpus.reasons import REASONS
from codelm.corpus.rows import REJECTED, ROW, Copy
from codelm.corpus.snapshot import readable, whole
from codelm.corpus.sources.base import Rejection
from codelm.errors import UserError

MAX_ANSWERS = 20
NEAREST = 3
NEAR = re.compile(r"(.+) \(Jaccard ([\d.]+)\)")


@dataclass
class Answer:
    """What became of one file."""

    place: str
    """repo/path; a folder that was not entered ends in "/" """
    kept: bool
    sentence: str
    """what happened, in plain words"""
    reason: str | None = None
    """the rule that dropped it"""
    detail: str = ""
    """what the rule found"""
    like: str | None = None
    """the kept file that it is a copy of"""
    jaccard: float | None = None
    """how alike they are, if they are not the same"""
    split: str | None = None
    language: str | None = None
    license: str | None = None
    license_method: str | None = None
    license_confidence: float | None = None
    size: int | None = None
    redacted: dict[str, int] = field(default_factory=dict)
    """kind → how many"""
    copies: list[Copy] = field(default_factory=list)
    """other places of the same text, which were dropped"""


class Places:
    """All files that a corpus knows, kept and dropped."""

    def __init__(self, folder: Path) -> None:
        self.files = [path for name in ("snapshot", "rejected") for path in sorted((folder / name).glob("*.parquet"))]
        with readable(folder):
            tables = [pq.read_table(path, columns=["repo", "path"]) for path in self.files]
        self.rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        self.row = np.concatenate([np.arange(len(table)) for table in tables])
        whole = pa.concat_tables(tables)
        self.repo, self.path = whole["repo"], whole["path"]
        self.place = pc.binary_join_element_wise(self.repo, self.path, "/")

    def where(self, mask: Any) -> list[int]:
        """Numbers of the files for which a mask holds."""
        return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()

    def named(self, name: str) -> list[int]:
        """Those of this very repo/path, or of this path in any repository."""
        return self.where(pc.or_(pc.equal(self.place, name), pc.equal(self.path, name)))

    def on_disk(self, file: Path, roots: Sequence[Path]) -> list[int]:
        """Those that a file on this machine became. roots: of the sources."""
        parts = file.parts
        ends = {"/".join(parts[start:]): Path(*parts[:start]) for start in range(1, len(parts))}
        found = []
        for number in self.where(pc.is_in(self.path, pa.array(list(ends), pa.string()))):
            above = ends[self.path[number].as_py()]
            if any(above.is_relative_to(root) for root in roots):
                found.append((number, above, self.repo[number].as_py()))
        least = min((len(above.parts) for _, above, _ in found), default=0)
        found = [one for one in found if len(one[1].parts) == least]
        own = [one for one in found if PurePosixPath(one[2]).name == one[1].name]
        return [number for number, _, _ in own or found]

    def above(self, name: str) -> list[int]:
        """Folders that were not entered, above a name."""
        parts = name.split("/")
        folders = pa.array(["/".join(parts[:end]) + "/" for end in range(1, len(parts))], pa.string())
        return self.where(pc.or_(pc.is_in(self.place, folders), pc.is_in(self.path, folders)))

    def ending(self, name: str) -> list[int]:
        """Those whose last parts are these."""
        return self.where(pc.ends_with(self.place, f"/{name}"))

    def nearest(self, name: str) -> list[str]:
        """Places whose file names look like this one."""
        wanted = PurePosixPath(name).name
        by_name: dict[str, str] = {}
        for place in self.place.to_pylist():
            by_name.setdefault(PurePosixPath(place).name, place)
        alike = [one for one in by_name if one[:1] == wanted[:1] and abs(len(one) - len(wanted)) <= len(wanted) // 2]
        return [by_name[one] for one in difflib.get_close_matches(wanted, alike, n=NEAREST)]

    def rows(self, numbers: Sequence[int]) -> list[tuple[bool, dict[str, Any]]]:
        """(kept, columns) of each file."""
        found = []
        for number in numbers:
            kept = self.files[self.rank[number]].parent.name == "snapshot"
            columns = [name for name in ROW.names if name != "content"] if kept else REJECTED.names
            table = rows_of(self.files, self.rank[number : number + 1], self.row[number : number + 1], columns)
            found.append((kept, table.to_pylist()[0]))
        return found


def why(folder: Path, file: str) -> list[Answer]:
    """What became of a file: one answer for each place that it may mean, at most 20.

    file: repo/path, a path in a repository, the end of either, or a path on this machine.
    Raises UserError if the corpus has never seen it, and names the nearest.
    """
    manifest = whole(folder)
    places = Places(folder)
    file = file.replace("\0", "").encode("utf-8", "replace").decode()
    name = file.removeprefix("./").rstrip("/")
    roots = [root for source in manifest.config["sources"] for root in roots_of(source)]
    found: list[int] = []
    if name:
        found = places.named(name) or places.named(name + "/")
        for path in on_this_machine(file):
            found = found or places.on_disk(path, roots)
        found = found or places.ending(name) or places.above(name)
        for path, root in ((path, root) for path in on_this_machine(file) for root in roots):
            if not found and path.is_relative_to(root):
                found = places.above(path.relative_to(root).as_posix())
    if not found:
        nearest = places.nearest(name)
        raise UserError(
            f"{file}: neither in {folder} nor among what was left out of it",
            f"did you mean {' or '.join(nearest)}?" if nearest else "give its repo/path, or its path on this machine",
        )
    answers = [answer(kept, row) for kept, row in places.rows(found[:MAX_ANSWERS])]
    for one in answers:
        if one.like:
            one.sentence = fate(one, places)
    return answers


def fate(copy: Answer, places: Places) -> str:
    """The sentence on a copy, with what became of the file that it is a copy of: that may have gone later, as a copy too."""
    said = "almost the same text as" if copy.jaccard else "the same text as"
    seen, at, links = {copy.place}, copy, []
    while at.like and at.like not in seen:
        seen.add(at.like)
        here = places.where(pc.equal(places.place, at.like))
        found = [answer(kept, row) for kept, row in places.rows(here)]
        if not found or any(one.kept for one in found):
            break
        at = found[0]
        found_there = f" ({at.detail})" if at.detail and not at.like else ""
        links.append(f"is a copy of {at.like}" if at.like else f"was left out itself: {at.reason}{found_there}")
    if not links:
        return copy.sentence
    return f"It is {said} another file, which {', which '.join(links)}{', which is kept' if at.like else ''}."


def on_this_machine(file: str) -> list[Path]:
    """The path that a name means here, as it is written and without links."""
    path = Path(os.path.abspath(Path(file).expanduser()))  # noqa: PTH100 (this one takes out ..)
    try:
        return [path, Path(file).expanduser().resolve()]
    except (OSError, RuntimeError):  # a loop of links
        return [path]


def roots_of(source: str) -> list[Path]:
    """Where the files of a source lie on this machine, if they do."""
    if source == STDLIB:
        return [Path(sysconfig.get_path("stdlib")).resolve()]
    kind, colon, rest = source.partition(":")
    if not colon or kind not in KINDS:
        return [Path(source), Path(source).resolve()]
    if kind == "python" and not rest:
        return [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    if kind in ("git", "python", "npm"):
        place = rest.rpartition("@")[0] or rest if kind == "git" else rest
        return [Path(place), Path(place).resolve()]
    return []


def told(path: str, reason: str, detail: str) -> str:
    """What a rule found; of a rule on paths, the part of the path that falls under it, and the rule's keys."""
    part = matched(path, Rejection(reason, detail))
    return f"{part[0]} ({', '.join(part[1])})" if part else detail


def answer(kept: bool, row: dict[str, Any]) -> Answer:
    """A row in words."""
    place = f"{row['repo']}/{row['path']}"
    known: dict[str, Any] = {
        name: row.get(name) for name in ("language", "license", "license_method", "license_confidence", "split", "size")
    }
    if kept:
        use = {"train": "training", "valid": "validation"}.get(row["split"], row["split"])
        redacted = {one["kind"]: one["count"] for one in row["redacted"] or ()}
        return Answer(place, True, f"Kept, for {use}.", **known, redacted=redacted, copies=row["also_in"] or [])
    detail = told(row["path"], row["reason"], row["detail"])
    near = NEAR.fullmatch(detail) if row["reason"] == "near_duplicate" else None
    return Answer(
        place,
        False,
        REASONS.get(row["reason"], "Another version of codelm left it out."),
        reason=row["reason"],
        detail=detail,
        like=near[1] if near else detail if row["reason"] == "duplicate" else None,
        jaccard=float(near[2]) if near else None,
        **known,
    )
