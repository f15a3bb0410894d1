"""What can be done with a finished corpus: check it, compare two, take code out of it."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from codelm.config.corpus import CorpusConfig
from codelm.config.settings import differing, flat
from codelm.corpus.balance import mixture
from codelm.corpus.build import REPORT, UNKNOWN, finish, snapshot_id
from codelm.corpus.decide import SHARD_BYTES, opted_out
from codelm.corpus.order import imports_of, repository_order
from codelm.corpus.pack import rows_of, write_shard
from codelm.corpus.report import write_report
from codelm.corpus.rows import REJECTED, ROW, RowWriter, table
from codelm.corpus.split import TRAIN, VALID
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import MANIFEST, Manifest, Stage, file_sha256

MAX_PROBLEMS = 100
REMOVED = "removed.parquet"
"""Rows that `remove` took out, in rejected/."""


def verify(folder: Path, progress: Progress = silent) -> list[str]:
    """What is wrong with a corpus, at most 100 findings; empty if nothing is. progress: in bytes.

    Every file against its hash in the manifest, the columns of every table, each row's own consistency, the sums of the
    manifest, and that no code stands in it which its settings leave out. Raises UserError if there is no manifest.
    """
    manifest = Manifest.read(folder)
    problems: list[str] = []
    sizes = {path: (folder / path).stat().st_size for path in manifest.outputs if (folder / path).is_file()}
    done = 0
    for path, sha256 in manifest.outputs.items():
        progress(done, sum(sizes.values()), file=path)
        if path not in sizes:
            problems.append(f"{path}: missing")
        elif file_sha256(folder / path) != sha256:
            problems.append(f"{path}: changed since it was written")
        done += sizes.get(path, 0)
    progress(done, done)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    problems += [f"{path}: not in the manifest" for path in sorted(present - set(manifest.outputs) - {MANIFEST, REPORT})]
    for name, schema in (("snapshot", ROW), ("rejected", REJECTED)):
        for file in sorted((folder / name).glob("*.parquet")):
            try:
                if not pq.read_schema(file).equals(schema):
                    problems.append(f"{name}/{file.name}: not the columns of this version of codelm")
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{name}/{file.name}: {first_line(error)}")
    if not problems:  # else there are no rows to trust
        problems += wrong_rows(folder, manifest)
    return problems[:MAX_PROBLEMS]


def wrong_rows(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the rows of a corpus whose files are whole."""
    seen: set[tuple[str, str, str]] = set()
    positions: set[tuple[str, int]] = set()
    kept = Counter[str]()
    opt_outs = manifest.config.get("opt_outs", [])
    for path in sorted((folder / "snapshot").glob("*.parquet")):
        for row in rows(folder / "snapshot", [name for name in ROW.names if name != "content"], path.name):
            place = f"{row['repo']}/{row['path']}"
            itself = (row["repo"], row["path"], row["blob_sha"])
            if itself in seen:  # one path with two texts is right: versions or functions of it, from a table
                yield f"{place}: twice in the corpus"
            if (row["repo"], row["order"]) in positions:
                yield f"{place}: shares its position with another file of its repository"
            if row["split"] != path.name.partition("-")[0]:
                yield f"{place}: says {row['split']} and stands in {path.name}"
            if row["license_sha"] and not (folder / "licenses" / f"{row['license_sha']}.txt").is_file():
                yield f"{place}: its licence text {row['license_sha']} is missing"
            if pattern := opted_out(all_places(row), opt_outs):
                yield f"{place}: {pattern} is opted out"
            seen.add(itself)
            positions.add((row["repo"], row["order"]))
            kept.update(files=1, bytes=row["size"], tokens=row["token_count"])
    if kept["files"] != manifest.counts["files_kept"]:
        yield f"snapshot: {kept['files']} rows, the manifest says {manifest.counts['files_kept']}"
    for unit in ("files", "bytes", "tokens"):
        stated = sum(one[unit] for one in manifest.counts["splits"].values())
        if kept[unit] != stated:
            yield f"snapshot: {kept[unit]} {unit}, the splits of the manifest say {stated}"
    rejected = Counter(row["reason"] for row in table(folder / "rejected", ["reason"]))
    if rejected != Counter(manifest.counts["rejected"]):
        yield f"rejected: {dict(rejected)}, the manifest says {manifest.counts['rejected']}"
    inputs = manifest.counts["inputs_id"]
    if snapshot_id(inputs, config_of(folder, manifest), code_of(manifest)) != manifest.counts["snapshot_id"]:
        yield f"{MANIFEST}: the snapshot id does not follow from settings and inputs"


def all_places(row: dict[str, Any]) -> list[str]:
    """Where the text of a row stands: its own place and those of its copies."""
    return [f"{row['repo']}/{row['path']}", *(f"{copy['repo']}/{copy['path']}" for copy in row["also_in"] or ())]


@dataclass
class Diff:
    """What tells two corpora apart. Places are repo/path; pairs are (in the first, in the second)."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """other bytes, or others of them redacted"""
    moved: dict[str, tuple[str, str]] = field(default_factory=dict)
    """between the splits"""
    relicensed: dict[str, tuple[str, str]] = field(default_factory=dict)
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """dotted name → values"""
    inputs: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """sources, rules and libraries → fingerprints or versions"""
    languages: dict[str, tuple[int, int]] = field(default_factory=dict)
    """→ bytes, where they differ"""
    licenses: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether the code in them differs."""
        return bool(self.added or self.removed or self.changed or self.moved or self.relicensed)


def diff(first: Path, second: Path) -> Diff:
    """Compares two corpora. Raises UserError if one of the folders holds none, or not all of it."""
    a, b = whole(first), whole(second)
    found = Diff()
    one, other = files_of(first), files_of(second)
    found.added = sorted(place for place in other if place not in one)
    for place, row in sorted(one.items()):
        if place not in other:
            found.removed.append(place)
            continue
        now = other[place]
        if (row["blob_sha"], row["redacted"]) != (now["blob_sha"], now["redacted"]):
            found.changed.append(place)
        if row["split"] != now["split"]:
            found.moved[place] = (row["split"], now["split"])
        if row["license"] != now["license"]:
            found.relicensed[place] = (row["license"] or UNKNOWN, now["license"] or UNKNOWN)
    found.settings = differing(flat(a.config), flat(b.config))
    found.inputs = differing(versions(a), versions(b))
    for kind in ("languages", "licenses"):
        sums = [{name: one["bytes"] for name, one in manifest.counts[kind].items()} for manifest in (a, b)]
        getattr(found, kind).update(differing(sums[0], sums[1], missing=0))
    return found


def versions(manifest: Manifest) -> dict[str, str]:
    """What made a corpus besides its settings."""
    return {**manifest.inputs, "codelm": manifest.codelm_version, **manifest.libraries}


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Place → some columns of it. Where several texts have one place, as functions of a table do, the hash tells them apart."""
    columns = ["repo", "path", "blob_sha", "redacted", "split", "license"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(folder / "snapshot", columns):
        found.setdefault(f"{row['repo']}/{row['path']}", []).append(row)
    return {
        f"{place}@{row['blob_sha'][:12]}" if len(several) > 1 else place: row
        for place, several in found.items()
        for row in several
    }


def rows(folder: Path, columns: list[str], pattern: str = "*.parquet") -> Iterator[dict[str, Any]]:
    """Some columns of its tables, a row at a time. Raises UserError if a table cannot be read."""
    with readable(folder):
        yield from table(folder, columns, pattern)


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turns what a broken table raises into a UserError."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{folder}: {first_line(error)}", "build the corpus again") from error


def whole(folder: Path) -> Manifest:
    """The manifest of a corpus. Raises UserError if there is none, or if files of it are not there."""
    manifest = Manifest.read(folder)
    if missing := manifest.lacks(folder):
        raise UserError(f"{folder}: {missing[0]} is missing", "run `codelm corpus build` again with its settings")
    return manifest


def remove(folder: Path, patterns: Sequence[str], progress: Progress = silent) -> Manifest:
    """Takes code out for good: the corpus becomes the one that a build with these opt-outs would have made.

    A text goes if one of its places matches, its own or one in `also_in`: a copy of it must not stay under another name.
    patterns: of repo/path, with * as wildcard; a repository or folder takes along what is in it. Repositories that lose a
    file are put in order anew; the split stays. Raises UserError if a pattern matches nothing, or if a split would be left
    empty; what stood before still does.
    """
    manifest = whole(folder)
    old = config_of(folder, manifest)
    config = old.model_copy(update={"opt_outs": list(dict.fromkeys([*old.opt_outs, *patterns]))})
    shards = sorted((folder / "snapshot").glob("*.parquet"))
    listed = [
        row | {"rank": rank, "row": number}
        for rank, path in enumerate(shards)
        for number, row in enumerate(
            rows(
                folder / "snapshot",
                ["repo", "path", "size", "blob_sha", "language", "license", "split", "order", "also_in"],
                path.name,
            )
        )
    ]
    gone: list[dict[str, Any]] = []
    unmatched = dict.fromkeys(patterns)
    for row in listed:
        of_text = all_places(row)
        for pattern in list(unmatched):
            if opted_out(of_text, [pattern]):
                del unmatched[pattern]
        if first := opted_out(of_text, patterns):
            gone.append(row | {"reason": "opt_out", "detail": first})
    if unmatched:
        raise UserError(
            f"{folder}: no file matches {next(iter(unmatched))!r}", "patterns are of repo/path, such as owner/name/src/*.py"
        )
    gone_places = {(row["rank"], row["row"]) for row in gone}
    left = [row for row in listed if (row["rank"], row["row"]) not in gone_places]
    if {row["split"] for row in left} != {TRAIN, VALID}:
        raise UserError(f"{folder}: a split would be left empty", "build a corpus of other sources, without this code")

    stage = Stage(folder, config.identity(), manifest.inputs, seed=manifest.seed, libraries=tuple(libraries(manifest)))
    with stage.build() as partial:
        reorder(shards, left, {row["repo"] for row in gone}, progress)
        (partial / "snapshot").mkdir()
        write_left(partial / "snapshot", shards, left)
        shutil.copytree(folder / "rejected", partial / "rejected")
        before = list(table(folder / "rejected", REJECTED.names, REMOVED))
        with RowWriter(partial / "rejected" / REMOVED, REJECTED) as file:
            for row in [*before, *gone]:
                file.write({name: row[name] for name in REJECTED.names})
        stage.counts = finish(partial, folder / "licenses", config, progress)
        kept = {name: manifest.counts[name] for name in ("inputs_id", "warnings", "steps")}
        train = ((row["repo"], row["language"], row["size"]) for row in left if row["split"] == TRAIN)
        source_of = {repo: manifest.counts["mixture"]["source_of"][repo] for repo in {row["repo"] for row in left}}
        stage.counts |= {
            **kept,
            "mixture": mixture(train, source_of, config.balance.alpha),
            "snapshot_id": snapshot_id(kept["inputs_id"], config, code_of(manifest)),
        }
    write_report(folder)
    return Manifest.read(folder)


def reorder(shards: Sequence[Path], left: list[dict[str, Any]], repos: set[str], progress: Progress) -> None:
    """Sets `order` of the rows of some repositories, as if what is not in `left` had never been there."""
    members: dict[str, list[dict[str, Any]]] = {}
    for row in left:
        if row["repo"] in repos:
            members.setdefault(row["repo"], []).append(row)
    for done, files in enumerate(members.values()):
        progress(done, len(members), note="order")
        texts = rows_of(shards, *places(files), ["content", "language"]).to_pylist()
        imports = [imports_of(row["content"], row["language"]) for row in texts]
        order = repository_order([row["path"] for row in files], imports, [row["language"] for row in files])
        for row, position in zip(files, order, strict=True):
            row["order"] = position


def write_left(folder: Path, shards: Sequence[Path], left: list[dict[str, Any]]) -> None:
    """Writes the shards anew: a split's repositories in their old sequence, each in its order, cut as a build cuts them."""
    for split in (TRAIN, VALID):
        members = [row for row in left if row["split"] == split]
        sequence = {repo: number for number, repo in enumerate(dict.fromkeys(row["repo"] for row in members))}
        members.sort(key=lambda row: (sequence[row["repo"]], row["order"]))
        number = size = first = 0
        for end, row in enumerate(members, start=1):
            size += row["size"]
            if size >= SHARD_BYTES or end == len(members):
                chosen = members[first:end]
                found = rows_of(shards, *places(chosen), ROW.names)
                column = ROW.get_field_index("order")
                found = found.set_column(column, ROW.field(column), pa.array([row["order"] for row in chosen]))
                write_shard(found, folder / f"{split}-{number:05d}.parquet")
                number, size, first = number + 1, 0, end


def places(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Where rows stand: number of the shard, and of the row in it."""
    return np.array([row["rank"] for row in rows]), np.array([row["row"] for row in rows])


def config_of(folder: Path, manifest: Manifest) -> CorpusConfig:
    """The settings that a corpus was made with. Raises UserError if this version does not know them."""
    try:
        return CorpusConfig.model_validate(manifest.config)
    except ValidationError as error:
        raise UserError(f"{folder} was made with settings that this version does not know", "build it again") from error


def code_of(manifest: Manifest) -> dict[str, str]:
    """The rules and libraries that a corpus was made with."""
    return {name.removeprefix("code/"): value for name, value in manifest.inputs.items() if name.startswith("code/")}


def libraries(manifest: Manifest) -> list[str]:
    """The distributions whose versions its manifest has."""
    return [name for name in manifest.libraries if name != "python"]
