"""The corpus stage: sources → rows, what was left out and why, licences, attribution, manifest.

Two passes: what a file says of itself (clean), then what only all of them tell (decide), so that the first is shared out
among workers and the second needs no more than a few short columns. Both lie in a work folder named after everything they
depend on until the corpus is whole: a build that was killed goes on there, and one with other settings never reuses it.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codelm.attribution.index import build_index
from codelm.config.corpus import CorpusConfig
from codelm.corpus.clean import Clean
from codelm.corpus.decide import Decisions, decide
from codelm.corpus.decontaminate import Contamination
from codelm.corpus.execute import run_tasks
from codelm.corpus.licenses.tree import collect
from codelm.corpus.near_duplicates import ALGORITHM
from codelm.corpus.notice import write_notice
from codelm.corpus.pack import Pack
from codelm.corpus.parse import grammars
from codelm.corpus.report import write_report
from codelm.corpus.rows import table
from codelm.corpus.sources.base import Source, save_piece
from codelm.corpus.sources.open import open_sources
from codelm.errors import UserError
from codelm.progress import Progress, part, silent
from codelm.stage import Manifest, Stage, digest, file_sha256, write_atomically

HERE = Path(__file__).parent
AFTERWARDS = {
    *("comments.yaml", "export.py", "plan.py", "prose.py", "read.py", "reasons.py", "reasons.yaml", "report.html.j2"),
    *("report.py", "snapshot.py", "status.py", "tokens.py", "why.py"),
}
"""Files of this package that work on a finished corpus and do not shape it."""

PARTIAL = shutil.ignore_patterns(".*")
REPORT = "report.html"
UNKNOWN = "unknown"
TOP_REASONS = 3
HINTS = {
    "license_unknown": "if the code is your own, --allow-unknown keeps what states no licence",
    "license": "look at licenses.allow and licenses.deny in the settings",
    "size": "look at filters.max_file_bytes in the settings",
    "short": "look at filters.min_lines in the settings",
    "unreadable": "look at the rights to the files, or whether the repository or table is whole",
}
"""Reason that left nothing → what to do."""


def build(folder: Path, config: CorpusConfig, progress: Progress = silent) -> Manifest:
    """Builds a corpus in `folder`, or finds it there as configured and does nothing. progress: as a share of 1.

    Raises UserError for sources that are missing, empty, without code, or too few to hold a package out, and if the
    disk is full; a corpus that stood there before still does.
    """
    sources = open_sources(config.sources, run=folder.parent)
    inputs = {source.given: source.fingerprint for source in sources}
    made_by = code()
    inputs |= {f"code/{name}": version for name, version in made_by.items()}
    inputs |= {f"benchmark/{path}": file_sha256(Path(path)) for path in config.decontaminate.files if Path(path).is_file()}
    stage = Stage(folder, config.identity(), inputs, seed=config.seed, libraries=("datatrove", "pyarrow", "rensa"))
    manifest = stage.done()
    if manifest is None:
        Contamination.load(config.decontaminate)  # what is wrong with the user's sets is said before the work
        works = work_folder(folder)
        work = works / digest([stage.key, config.execution.piece_mb])[:16]
        for other in works.iterdir() if works.is_dir() else ():
            if other != work:
                shutil.rmtree(other)  # of a killed build with other settings or sources
        with stage.build() as partial:
            decisions = gather(work, config, sources, progress)
            for name in ("snapshot", "rejected"):
                # links: the work stays whole should this be killed, too, and takes no room twice
                shutil.copytree(work / name, partial / name, copy_function=os.link, ignore=PARTIAL)
            stage.counts = finish(partial, work / "licenses", config, part(progress, 0.87, 1.0, "attribution"))
            stage.counts |= {
                "inputs_id": inputs_id(work, config),
                "mixture": decisions.mixture,
                "warnings": decisions.warnings,
                "steps": steps(work),
            }
            stage.counts["snapshot_id"] = snapshot_id(stage.counts["inputs_id"], config, made_by)
            progress(1.0, 1.0, note="")
        shutil.rmtree(works, ignore_errors=True)  # a worker of a killed build may still be leaving it
        manifest = Manifest.read(folder)
    if not (folder / REPORT).exists():
        write_report(folder)
    return manifest


def work_folder(folder: Path) -> Path:
    """Where the unfinished work on the corpus in `folder` lies."""
    return folder.with_name(f".{folder.name}.work")


def code() -> dict[str, str]:
    """What, besides sources and settings, the rows depend on: our own rules and the libraries that judge."""
    own = hashlib.sha256()
    for path in [HERE.parent / "lexemes.py", *sorted(HERE.rglob("*"))]:
        if path.is_file() and path.name not in AFTERWARDS and "__pycache__" not in path.parts:
            own.update(f"{path.relative_to(HERE.parent)}\0{file_sha256(path)}\n".encode())
    return {
        "codelm.corpus": own.hexdigest(),
        "grammars": " ".join(grammars()),
        "minhash": ALGORITHM,
        "scancode": installed("scancode-toolkit-mini"),
        "pyarrow": installed("pyarrow"),
    }


def installed(distribution: str) -> str:
    """The version of a distribution, or "none"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def gather(work: Path, config: CorpusConfig, sources: Sequence[Source], progress: Progress) -> Decisions:
    """Fills the work folder up to the snapshot's shards; what is there already is not done again."""
    progress(0.0, 1.0, note="listing")
    listed = list_pieces(work, config, sources)
    if not (work / "licenses" / "trees.json").exists():
        texts = (entry for source in sources for entry in source.license_files())
        collect(texts, work / "licenses", part(progress, 0.0, 0.05, "licences"))
    cleaning = part(progress, 0.05, 0.75, "files")
    run_tasks(Clean(work, config), [size for _, size in listed], work / "logs-clean", config.execution, cleaning)

    decided = work / "decisions.json"
    if not decided.exists():
        progress(0.75, 1.0, note="copies")
        if not any(True for _ in table(work / "candidates", ["size"])):
            raise UserError(*no_code(work / "rejected", config))
        try:
            decisions = decide(work, config, [source for source, _ in listed])
        except ValueError:
            raise UserError(*one_file(work)) from None
        decisions.warnings += unreadable(work / "rejected")
        write_atomically(decided, json.dumps(vars(decisions)))
    decisions = Decisions(**json.loads(decided.read_text(encoding="utf-8")))
    names, sizes = [name for name, _ in decisions.shards], [size for _, size in decisions.shards]
    run_tasks(Pack(work, names), sizes, work / "logs-pack", config.execution, part(progress, 0.8, 0.87, "shards"))
    return decisions


def list_pieces(work: Path, config: CorpusConfig, sources: Sequence[Source]) -> list[tuple[str, int]]:
    """(source, bytes) of each piece; writes the pieces for the workers."""
    listing = work / "pieces.json"
    if not listing.exists():
        (work / "pieces").mkdir(parents=True, exist_ok=True)
        found: list[tuple[str, int]] = []
        for source in sources:
            for piece in source.pieces(config.execution.piece_mb * 1_000_000):
                save_piece(piece, work / "pieces" / f"{len(found):05d}.pickle")
                found.append((source.given, piece.size))
        write_atomically(listing, json.dumps(found))
    return [(source, size) for source, size in json.loads(listing.read_text(encoding="utf-8"))]


def inputs_id(work: Path, config: CorpusConfig) -> str:
    """Identity of what the sources hold: SHA-256 of every file by repo, path, size and, where it was read, hash of its bytes,
    source by source, of the licence texts beside them, and of the user's own benchmarks. Where it all lies does not enter.
    """
    columns = ["repo", "path", "size", "blob_sha"]
    by_source: dict[str, list[list[Any]]] = {}  # in order: of two copies, the first source's is kept
    for rank, (source, _) in enumerate(json.loads((work / "pieces.json").read_text(encoding="utf-8"))):
        for folder in ("candidates", "rejected"):
            by_source.setdefault(source, []).extend(
                [row["repo"], row["path"], row["size"] or 0, row["blob_sha"] or ""]
                for row in table(work / folder, columns, f"{rank:05d}.parquet")
            )
    files = [sorted(found) for found in by_source.values()]
    benchmarks = [file_sha256(Path(path)) for path in config.decontaminate.files]
    return digest([files, file_sha256(work / "licenses" / "trees.json"), benchmarks])


def snapshot_id(inputs: str, config: CorpusConfig, code: Mapping[str, str]) -> str:
    """Identity of a corpus: SHA-256 of its inputs, settings and code, and of no place, time or number of workers."""
    settings = config.identity()
    del settings["sources"], settings["decontaminate"]["files"]  # what is in them counts, not where they lie
    settings["opt_outs"] = sorted(set(config.opt_outs))
    return digest([inputs, settings, dict(code)])[:16]


def finish(folder: Path, collected: Path, config: CorpusConfig, progress: Progress = silent) -> dict[str, Any]:
    """Makes from `snapshot/` and `rejected/` what goes with them: NOTICE, licence texts, attribution. Returns the counts.

    collected: the licence texts of the sources, or the `licenses` of a corpus that these rows were in before.
    """
    versions = {row["repo"]: row["version"] for row in table(folder / "snapshot", ["repo", "version"])}
    columns = ["repo", "license", "license_sha", "copyright"]
    write_notice(folder, versions, table(folder / "snapshot", columns), collected)
    if config.attribution:
        (folder / "attribution").mkdir()
        build_index(folder / "attribution", sorted((folder / "snapshot").glob("*.parquet")), progress)
    return counts(folder)


def counts(folder: Path) -> dict[str, Any]:
    """What the manifest says: files seen and kept, rejected by reason, and sums by language, licence, split and repository."""
    rejected, rejected_bytes = Counter[str](), Counter[str]()
    for row in table(folder / "rejected", ["reason", "size"]):
        rejected[row["reason"]] += 1
        rejected_bytes[row["reason"]] += row["size"] or 0
    sums: dict[str, dict[str, Counter[str]]] = {"languages": {}, "licenses": {}, "splits": {}, "repos": {}}
    columns = {"languages": "language", "licenses": "license", "splits": "split", "repos": "repo"}
    redactions = Counter[str]()
    kept = 0
    for row in table(folder / "snapshot", [*columns.values(), "size", "token_count", "redacted"]):
        kept += 1
        for kind, column in columns.items():
            one = sums[kind].setdefault(row[column] or UNKNOWN, Counter())
            one.update(files=1, bytes=row["size"], tokens=row["token_count"])
        for redacted in row["redacted"] or ():
            redactions[redacted["kind"]] += redacted["count"]
    return {
        "files_seen": kept + rejected.total(),
        "files_kept": kept,
        "rejected": most_first(rejected),
        "rejected_bytes": most_first(rejected_bytes),
        "redactions": most_first(redactions),
        **{
            kind: {name: dict(one) for name, one in sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0]))}
            for kind, found in sums.items()
        },
    }


def most_first(found: Counter[str]) -> dict[str, int]:
    """A count by name, the largest first."""
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def steps(work: Path) -> dict[str, dict[str, float]]:
    """Step → files, bytes and seconds that it took, summed over the workers."""
    total: dict[str, Counter[str]] = {}
    for path in sorted((work / "steps").glob("*.json")):
        for name, spent in json.loads(path.read_text(encoding="utf-8")).items():
            total.setdefault(name, Counter()).update(spent)
    return {name: {key: round(value, 3) for key, value in spent.items()} for name, spent in total.items()}


def unreadable(rejected: Path) -> list[str]:
    """A warning if something could not be read: a table or a blob of a repository may be more than one file."""
    lost = [row for row in table(rejected, ["repo", "path", "reason", "detail"]) if row["reason"] == "unreadable"]
    if not lost:
        return []
    first = lost[0]
    return [f"{len(lost)} could not be read, the first of them {first['repo']}/{first['path']} ({first['detail']})"]


def one_file(work: Path) -> tuple[str, str]:
    """What to say when nothing can be held out, and what to do."""
    place = next("/".join(row.values()) for row in table(work / "candidates", ["repo", "path"]))
    unknown = sum(row["reason"] == "license_unknown" for row in table(work / "rejected", ["reason"]))
    if unknown:
        said = f"only one file to learn from ({place}); {unknown} more state no licence"
        return said, "if the code is your own, --allow-unknown keeps it"
    return f"only one file to learn from ({place})", "give at least two files or packages: one is held out for validation"


def no_code(rejected: Path, config: CorpusConfig) -> tuple[str, str]:
    """What to say when nothing is left, and what to do."""
    reasons = Counter(row["reason"] for row in table(rejected, ["reason"]))
    top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(TOP_REASONS))
    said = f"{', '.join(config.sources)}: no code to keep in {reasons.total()} files (rejected: {top})"
    most = next(iter(reasons.most_common(1)), ("", 0))[0]
    return said, HINTS.get(most, "give a folder that holds source code of your own")
