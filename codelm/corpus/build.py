"""The corpus stage: sources → rows, what was left out and why, licences, manifest."""

import contextlib
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import ParquetReader
from loguru import logger

from codelm.config.corpus import CorpusConfig
from codelm.corpus import steps
from codelm.corpus.languages import DATA
from codelm.corpus.licenses import LicenseTree
from codelm.corpus.notice import UNKNOWN, write_notice
from codelm.corpus.rows import CANDIDATE, ROW, writer
from codelm.corpus.sources import Source, open_sources
from codelm.corpus.split import split
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, file_sha256

TOP_REASONS = 3


def build(folder: Path, config: CorpusConfig, progress: Progress = silent) -> Manifest:
    """Builds a corpus in `folder`, or finds it there as configured and does nothing. progress: in bytes of the sources.

    Raises UserError for sources that are missing, empty, without code, or too few to hold a package out, and if the
    disk is full; a corpus that stood there before still does.
    """
    sources = open_sources(config.sources, run=folder.parent)
    inputs = {source.repo: source.fingerprint for source in sources}
    inputs |= {f"rules/{path.name}": file_sha256(path) for path in sorted(DATA.glob("*.yaml"))}
    stage = Stage(folder, config, inputs, seed=config.seed, libraries=("datatrove", "pyarrow"))
    manifest = stage.done()
    if manifest is None:
        with stage.build() as partial, quiet_datatrove():
            stage.counts = fill(partial, sources, config, progress)
        manifest = Manifest.read(folder)
    return manifest


def fill(folder: Path, sources: list[Source], config: CorpusConfig, progress: Progress) -> dict[str, Any]:
    """Writes everything but the manifest. Returns the counts.

    Two passes: what a file says of itself, then what only all of them tell (copies, split), so that the first can be
    shared out among workers and the second needs no more than a few short columns in memory.
    """
    rejected = folder / "rejected"
    rejected.mkdir()
    trees = {source.repo: LicenseTree(source) for source in sources}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".candidates-") as name:
        candidates = Path(name)
        run(
            steps.ListFiles(sources, progress),
            steps.Listed(rejected),
            steps.Language(config.languages, rejected),
            steps.FirstParty(rejected),
            steps.Size(config.max_file_bytes, rejected),
            steps.Read(rejected),
            steps.Generated(rejected),
            steps.Lines(config, rejected),
            steps.Licensed(trees, config.deny_licenses, rejected),
            steps.Measure(),
            writer(candidates, "${rank}.parquet", CANDIDATE),
        )
        copies, sizes = copies_and_sizes(candidates)
        if not copies:
            raise UserError(no_code(rejected, config), "give a folder that holds source code of your own")
        try:
            splits = split(sizes, config.valid_share, config.seed)
        except ValueError:
            (repo, files), *_ = ((repo, files) for repo, files in sizes.items() if files)
            raise UserError(
                f"only one file to learn from ({repo}/{next(iter(files))})",
                "give at least two files or packages: one is held out for validation",
            ) from None
        run(
            ParquetReader(str(candidates), text_key="content", batch_size=64),
            steps.Unique(copies, rejected),
            steps.Split(splits),
            writer(folder / "snapshot", "${split}-${rank}.parquet", ROW),
        )
    texts = {sha: text for tree in trees.values() for sha, text in tree.texts.items()}
    columns = ["repo", "license", "license_sha", "copyright"]
    write_notice(folder, sources, table(folder / "snapshot", columns), texts)
    return counts(folder)


def run(*pipeline: PipelineStep) -> None:
    """Runs steps in this process as one worker, the way a datatrove executor does.

    Its LocalPipelineExecutor would start a manager process and deep-copy the steps even for one worker.
    """
    data = None
    for step in pipeline:
        data = step(data, rank=0, world_size=1)
    deque(data or (), maxlen=0)


def copies_and_sizes(
    candidates: Path,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, int]]]:
    """Text hash → places of that text, the one to keep first; repo → path → bytes of the kept ones."""
    copies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    if not any(candidates.iterdir()):
        return copies, sizes
    for row in table(candidates, ["repo", "path", "license", "text_hash", "size"]):
        places = copies[row["text_hash"]]
        if not places:
            sizes[row["repo"]][row["path"]] = row["size"]
        places.append({key: row[key] for key in ("repo", "path", "license")})
    return copies, sizes


def table(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some columns of all Parquet files of a folder, a row at a time, in the order of the files."""
    for path in sorted(folder.glob("*.parquet")):
        for batch in ds.dataset(path).to_batches(columns=columns):
            yield from batch.to_pylist()


def rejected_by_reason(rejected: Path) -> dict[str, int]:
    """Reason → files, most first."""
    found = Counter(row["reason"] for row in table(rejected, ["reason"]))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def no_code(rejected: Path, config: CorpusConfig) -> str:
    """What to say when nothing is left."""
    reasons = rejected_by_reason(rejected)
    top = ", ".join(f"{reason} {count}" for reason, count in list(reasons.items())[:TOP_REASONS])
    return f"{', '.join(config.sources)}: no readable code in {sum(reasons.values())} files (rejected: {top})"


def counts(folder: Path) -> dict[str, Any]:
    """What the manifest says: files seen and kept, rejected by reason, and sums by language, licence and split."""
    rejected = rejected_by_reason(folder / "rejected")
    sums: dict[str, dict[str, Counter[str]]] = {"languages": {}, "licenses": {}, "splits": {}}
    kept = 0
    for row in table(folder / "snapshot", ["language", "license", "split", "size", "token_count"]):
        kept += 1
        for kind, key in (("languages", "language"), ("licenses", "license"), ("splits", "split")):
            one = sums[kind].setdefault(row[key] or UNKNOWN, Counter())
            one.update(files=1, bytes=row["size"], tokens=row["token_count"])
    return {
        "files_seen": kept + sum(rejected.values()),
        "files_kept": kept,
        "rejected": rejected,
        **{
            kind: {name: dict(one) for name, one in sorted(found.items(), key=lambda item: -item[1]["bytes"])}
            for kind, found in sums.items()
        },
    }


@contextlib.contextmanager
def quiet_datatrove() -> Iterator[None]:
    """Keeps datatrove's log off the user's terminal."""
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
