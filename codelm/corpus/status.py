"""What stands in a run folder: a finished corpus, and how far a build is that has not ended."""

import json
from dataclasses import dataclass
from pathlib import Path

from codelm.corpus.build import work_folder
from codelm.corpus.execute import done
from codelm.stage import MANIFEST, Manifest


@dataclass
class Unfinished:
    """A build that is running, or was killed."""

    step: str
    """listing, licences, clean, decide, pack or finish"""
    tasks_done: int
    tasks: int
    """of this step; 0 if it is not shared out"""
    bytes_done: int
    bytes: int
    """of source that is judged, of all"""
    touched: float
    """when it last did something, in seconds since 1970"""


@dataclass
class Status:
    """What stands in a corpus folder and beside it."""

    manifest: Manifest | None
    """of the finished corpus"""
    bytes_on_disk: int
    unfinished: Unfinished | None


def status(folder: Path) -> Status:
    """Looks at a corpus folder, which need not be there. Raises UserError if its manifest cannot be read."""
    manifest = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if manifest else 0
    works = work_folder(folder)
    found = sorted(works.iterdir(), key=lambda work: work.stat().st_mtime) if works.is_dir() else []
    return Status(manifest, size, unfinished(found[-1]) if found else None)


def unfinished(work: Path) -> Unfinished:
    """How far the build is whose work folder this is."""
    listing, decisions = work / "pieces.json", work / "decisions.json"
    sizes = [size for _, size in json.loads(listing.read_text(encoding="utf-8"))] if listing.exists() else []
    cleaned, packed = done(work / "logs-clean"), done(work / "logs-pack")
    shards = json.loads(decisions.read_text(encoding="utf-8"))["shards"] if decisions.exists() else []
    if not listing.exists():
        step, ended, tasks = "listing", 0, 0
    elif not (work / "licenses" / "trees.json").exists():
        step, ended, tasks = "licences", 0, 0
    elif len(cleaned) < len(sizes):
        step, ended, tasks = "clean", len(cleaned), len(sizes)
    elif not decisions.exists():
        step, ended, tasks = "decide", 0, 0
    elif len(packed) < len(shards):
        step, ended, tasks = "pack", len(packed), len(shards)
    else:
        step, ended, tasks = "finish", 0, 0
    touched = max((path.stat().st_mtime for path in [work, *work.rglob("*")] if path.exists()), default=0.0)
    return Unfinished(step, ended, tasks, sum(sizes[rank] for rank in cleaned if rank < len(sizes)), sum(sizes), touched)
