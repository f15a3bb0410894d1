"""From what the user wrote to sources."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from codelm.config.corpus import KINDS, STDLIB
from codelm.corpus.sources.base import Entry, ListedSource, Origin, Source
from codelm.corpus.sources.folder import FolderSource, StandardLibrary
from codelm.corpus.sources.git import GitSource
from codelm.corpus.sources.hub import HubSource
from codelm.corpus.sources.npm import NpmSource
from codelm.corpus.sources.python import PythonSource, python_folders, running_python
from codelm.corpus.sources.tables import JSON_LINES, PARQUET, table_source
from codelm.corpus.sources.walk import distinct
from codelm.errors import UserError

WANTED = {
    "git": "give the folder of a repository: git:./repository",
    "npm": "give a folder with a node_modules: npm:./node_modules",
    "jsonl": "give a file or a folder of them: jsonl:./rows.jsonl",
    "parquet": "give a file or a folder of them: parquet:./rows.parquet",
}
"""What a source has to name; only python: may name nothing."""


def open_sources(sources: list[str], run: Path) -> list[Source]:
    """The sources of a configuration, as `CorpusConfig.sources` has them. Files below `run` are no part of them.

    No two folders, repositories or packages have the same origin `repo`: a second one is called so, with -2. Rows of
    tables name their repositories themselves, and those may be in several tables.
    Raises UserError for a source that is missing, not what it should be, or has no files.
    """
    opened: list[Source] = []
    repos: set[str] = set()
    for given in sources:
        source = open_source(given, run.resolve())
        if isinstance(source, ListedSource):
            if not source.entries:
                raise UserError(f"{given}: nothing in it", "give a folder that holds source code")
            own = sorted({entry.origin.repo for entry in source.entries})
            names = {repo: distinct(repo, repos) for repo in own}
            if any(repo != name for repo, name in names.items()):
                source = Renamed(source, names)
        opened.append(source)
    return opened


def open_source(given: str, run: Path) -> Source:
    """One source. run: resolved. Raises UserError."""
    kind, colon, rest = given.partition(":")
    if given == STDLIB:
        return StandardLibrary(run)
    if not colon or kind not in KINDS:
        return FolderSource(given, Path(given), run)
    if kind in WANTED and (not rest or (kind == "git" and rest.startswith("@"))):
        raise UserError(f"{given} names no place", WANTED[kind])
    match kind:
        case "git":
            return open_git(given, rest)
        case "python":
            return PythonSource(given, python_folders(Path(rest)) if rest else running_python(), run)
        case "npm":
            return NpmSource(given, Path(rest), run)
        case "jsonl":
            return table_source(given, Path(rest), JSON_LINES, Path(rest).name.split(".")[0], run)
        case "parquet":
            return table_source(given, Path(rest), PARQUET, Path(rest).name.split(".")[0], run)
        case _:
            return HubSource(given)


def open_git(given: str, rest: str) -> GitSource:
    """A repository, with or without a commit: a folder's name may have an @ in it."""
    folder, at, commit = rest.rpartition("@")
    if at and not Path(rest).is_dir():
        return GitSource(given, Path(folder), commit)
    return GitSource(given, Path(rest))


class Renamed(ListedSource):
    """A source with other names for its origins."""

    def __init__(self, source: ListedSource, names: dict[str, str]) -> None:
        """names: repo → new name, for all of them."""
        self.given = source.given
        self.source = source
        self.names = names
        self.renamed = cache(lambda origin: replace(origin, repo=names[origin.repo]))

    def list(self) -> Iterator[Entry]:
        """Its entries, renamed."""
        yield from map(self.rename, self.source.entries)

    def license_files(self) -> Iterator[Entry]:
        """Its licence files, renamed."""
        yield from map(self.rename, self.source.license_files())

    def rename(self, entry: Entry) -> Entry:
        """One entry, renamed. A package may have licence texts and no files."""
        origin: Origin = entry.origin
        return entry._replace(origin=self.renamed(origin) if origin.repo in self.names else origin)
