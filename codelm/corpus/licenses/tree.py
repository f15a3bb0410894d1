"""Which licence a file is under: by its package, the licence file nearest to it, its own header; the most restrictive wins."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from codelm.corpus.licenses.expressions import canonical, conjunction, rank
from codelm.corpus.licenses.headers import SPDX_CONFIDENCE, copyright_lines, header_license
from codelm.corpus.licenses.metadata import named_license
from codelm.corpus.licenses.names import COPYRIGHT, Scope, is_license_name, is_notice_name, metadata_folder, scope
from codelm.corpus.licenses.texts import Identified, decode, identify, text_sha
from codelm.corpus.sources.base import Entry
from codelm.progress import Progress, silent
from codelm.stage import write_atomically

__all__ = ["License", "Trees", "collect", "is_license_name"]

MAX_BYTES = 2_000_000
"""What is read of a licence file."""
COPYRIGHT_LINES = 8
TREES = "trees.json"
TEXTS = "texts"
CONFIDENCE = {"distribution": 1.0, "debian": 0.9, "metadata": 0.8, "column": 0.8}
"""How far to trust who states a licence."""


class License(NamedTuple):
    """What is known of a file's licence."""

    spdx: str | None
    """an SPDX expression, None if unknown"""
    method: str
    """header: in the file; file: a licence file above it; metadata, debian, distribution, column: who states it; unknown"""
    confidence: float
    """0 to 1"""
    sha: str | None
    """SHA-256 of the licence text around it"""
    copyright: list[str]


# ------------------------------------------------------------------ reading them all


class Found(NamedTuple):
    """A licence file that was read."""

    path: str
    sha: str | None
    """None if it could not be read"""


def collect(entries: Iterable[Entry], folder: Path, progress: Progress = silent) -> None:
    """Reads and identifies licence files; writes `folder/trees.json` and their texts, `folder/texts/<sha256>.txt`.

    A file that cannot be read says nothing: what it stood for is of unknown licence. progress: in characters of unique texts.
    """
    texts = folder / TEXTS
    texts.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Found]] = defaultdict(list)
    for entry in entries:
        files[entry.origin.repo].append(Found(entry.path, keep_text(texts, read(entry))))

    stating = {found.sha for all_of_it in files.values() for found in all_of_it if found.sha and not is_notice_name(found.path)}
    identified = identify((stored(texts, sha) for sha in sorted(stating)), progress)
    folders: dict[str, Any] = {}
    notices: dict[str, list[str]] = {}
    for repo in sorted(files):
        found = sorted(set(files[repo]))
        folders[repo] = {
            where.folder: statement(texts, group, where.texts_only, identified) for where, group in by_folder(found, identified)
        }
        if carried := sorted({one.sha for one in found if one.sha and is_notice_name(one.path)}):
            notices[repo] = carried
    write_atomically(
        folder / TREES, json.dumps({"folders": folders, "notices": notices}, ensure_ascii=False, indent=0, sort_keys=True)
    )


def read(entry: Entry) -> str | None:
    """The text of a licence file, or None."""
    try:
        return decode(entry.blob.read(MAX_BYTES)) if entry.blob and entry.rejection is None else None
    except OSError:
        return None


def keep_text(texts: Path, text: str | None) -> str | None:
    """Writes a text into the folder of texts, under the SHA-256 that it returns."""
    if text is None:
        return None
    sha = text_sha(text)
    path = texts / f"{sha}.txt"
    if not path.exists():
        path.write_bytes(text.encode())
    return sha


def stored(texts: Path, sha: str) -> str:
    """A text that was kept."""
    return (texts / f"{sha}.txt").read_bytes().decode()


def by_folder(files: list[Found], identified: dict[str, Identified]) -> Iterator[tuple[Scope, list[Found]]]:
    """The licence files of one repository that hold for each folder.

    A LICENSES folder counts where nothing else does. A file of copyright lines only is no licence. The metadata of several
    packages side by side hold for none of the files around them.
    """
    packages: dict[str, set[str]] = defaultdict(set)
    for base, name in filter(None, (metadata_folder(found.path) for found in files)):
        packages[base].add(name)
    groups: dict[Scope, list[Found]] = defaultdict(list)
    for found in files:
        unstated = found.sha in identified and identified[found.sha].spdx is None
        if is_notice_name(found.path) or (unstated and COPYRIGHT.match(found.path.rpartition("/")[2])):
            continue
        package = metadata_folder(found.path)
        groups[scope(found.path, package is None or len(packages[package[0]]) == 1)].append(found)
    for where in sorted(groups):
        if not (where.texts_only and Scope(where.folder, False) in groups):
            yield where, groups[where]


def statement(texts: Path, files: list[Found], texts_only: bool, identified: dict[str, Identified]) -> dict[str, Any]:
    """What the licence files of one folder state together: all that is in them, or nothing if one is unknown."""
    shas = list(dict.fromkeys(found.sha for found in files))
    found = [identified[sha] for sha in shas if sha]
    known = len(found) == len(shas) and all(one.spdx for one in found)
    parts = [stored(texts, sha) for sha in shas if sha]
    return {
        "license": conjunction(one.spdx for one in found if one.spdx) if known else None,
        "confidence": min(one.confidence for one in found) if known else 0.0,
        "sha": keep_text(texts, "\n\n".join(parts)) if parts else None,
        "copyright": list(dict.fromkeys(line for part in parts for line in copyright_lines(part)))[:COPYRIGHT_LINES],
        "texts_only": texts_only,
    }


# ------------------------------------------------------------------ asking for one file


class Trees:
    """What the licence files say, by repository and folder. Pickled by its path, read once per process."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder = folder
        self.folders: dict[str, dict[str, dict[str, Any]]] = data["folders"]
        self.notices: dict[str, list[str]] = data["notices"]

    def __reduce__(self) -> tuple[Any, ...]:
        return Trees.open, (self.folder,)

    @classmethod
    def open(cls, folder: Path) -> "Trees":
        """What `collect` wrote."""
        return _open(folder, (folder / TREES).stat().st_mtime_ns)

    def nearest(self, repo: str, path: str) -> tuple[str, dict[str, Any] | None]:
        """The nearest folder at or above a path that has licence files, and what they state."""
        folders = self.folders.get(repo)
        folder = path.rpartition("/")[0]
        while folders:
            if found := folders.get(folder):
                return folder, found
            if not folder:
                break
            folder = folder.rpartition("/")[0]
        return "", None

    def license(self, entry: Entry, text: str) -> License:
        """The licence of one file: the most restrictive of what its header, its package and the nearest licence files say.

        Of two that ask alike, the one nearer to the file counts. text: its content. A licence file above it that nobody can
        read the sense of leaves it unknown, unless the file itself or whoever lists it says more, or that file is the
        package's own and the package's metadata say more.
        """
        folder, around = self.nearest(entry.origin.repo, entry.path)
        header = header_license(text)
        copyright = copyright_lines(text) or (around["copyright"] if around else [])
        sha = around["sha"] if around else None
        of_file = stated(entry.license)
        of_origin = None if of_file else stated(entry.origin.license)
        distributed = bool(of_origin) and entry.origin.license_method == "distribution"

        evidence: list[tuple[str, str, float]] = []  # nearest first
        if header:
            evidence.append((header.spdx, "header", header.confidence))
        if of_file:
            evidence.append((of_file, entry.license_method, CONFIDENCE.get(entry.license_method, 0.5)))
        if around and not distributed:
            if around["license"]:
                if not (around["texts_only"] and header and header.confidence == SPDX_CONFIDENCE):
                    evidence.append((around["license"], "file", around["confidence"]))
            elif folder and not evidence:
                return License(None, "unknown", 0.0, sha, copyright)
        if of_origin:
            method = entry.origin.license_method
            evidence.append((of_origin, method, CONFIDENCE.get(method, 0.5)))
        if not evidence:
            return License(None, "unknown", 0.0, sha, copyright)
        spdx, method, confidence = max(evidence, key=lambda one: rank(one[0]))  # the first of equals
        return License(spdx, method, confidence, sha, copyright)


@lru_cache(maxsize=8)
def _open(folder: Path, changed: int) -> Trees:
    return Trees(folder, json.loads((folder / TREES).read_text(encoding="utf-8")))


@lru_cache(maxsize=4096)
def stated(license: str | None) -> str | None:
    """What a source states as an SPDX expression: columns of tables have names in many spellings."""
    return (named_license(license) or canonical(license)) if license else None
