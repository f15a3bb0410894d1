"""Installed npm packages: https://docs.npmjs.com/cli/configuring-npm/folders."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codelm.corpus.sources.base import Entry, FileBlob, ListedSource, Origin
from codelm.corpus.sources.folder import existing_folder
from codelm.corpus.sources.walk import LINK, Found, distinct, unreadable, walk
from codelm.errors import UserError

MODULES = "node_modules"
MAX_BYTES = 10_000_000
"""Of a package.json; what is larger is none."""
STORE = ".pnpm"
"""Where pnpm keeps the packages themselves: https://pnpm.io/symlinked-node-modules-structure."""


class NpmSource(ListedSource):
    """The packages in a node_modules; those nested in another one are origins of their own."""

    def __init__(self, given: str, root: Path, skip: Path | None = None) -> None:
        """root: a node_modules or the project that has one. Raises UserError if there are no packages."""
        self.given = given
        root = existing_folder(given, root)
        self.root = root / MODULES if root.name != MODULES and (root / MODULES).is_dir() else root
        self.skip = skip
        if not any(entry.path == "package.json" for entry in self.entries):
            raise UserError(f"{given}: no npm packages are installed there", "give a node_modules folder, npm:DIR")

    def list(self) -> Iterator[Entry]:
        """The files of all packages."""
        from codelm.corpus.licenses.metadata import npm_license

        folders = [self.root]
        repos: set[str] = set()
        while folders:
            folders.sort(key=lambda folder: (len(folder.parts), folder), reverse=True)  # the outer ones keep their names
            modules = folders.pop()
            for root in packages_in(modules):
                if isinstance(root, Found):
                    yield root.entry(Origin(f"npm/{root.path}"))
                    continue
                if root.name == MODULES:
                    folders.append(root)
                    continue

                def is_nested(folder: Path, _: set[str]) -> bool:
                    if folder.name == MODULES:
                        folders.append(folder)
                    return folder.name == MODULES

                package = read_package(root)
                name = package.get("name")
                scoped = root.relative_to(modules).as_posix()
                repo = distinct(f"npm/{name if isinstance(name, str) and name else scoped}", repos)
                version = package.get("version")
                stated = npm_license(package)
                method = "metadata" if stated else "unknown"
                origin = Origin(repo, version if isinstance(version, str) else None, None, stated, method)
                for found in walk(root, self.skip, apart=is_nested):
                    yield found.entry(origin)


def packages_in(modules: Path) -> Iterator[Path | Found]:
    """The packages in a node_modules, further such folders in pnpm's store, and what is no folder as a rejection."""
    for found in children(modules):
        if isinstance(found, Found):
            yield found
        elif found.name == STORE:
            for each in children(found):
                if isinstance(each, Found):
                    yield each
                elif os.path.isdir(each / MODULES):  # noqa: PTH112 - no error where it may not be looked at
                    yield each / MODULES
        elif found.name.startswith("@"):
            yield from children(found)
        elif not found.name.startswith("."):
            yield found


def children(folder: Path) -> Iterator[Path | Found]:
    """The folders in a folder; symbolic links (workspaces, pnpm) and what cannot be read as rejections."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        yield Found(f"{folder.name}/", folder, None, "0", unreadable(error))
        return
    for child in inside:
        if child.is_symlink():
            yield Found(child.name, child, None, "0", LINK)
        elif child.is_dir():
            yield child


def read_package(root: Path) -> dict[str, Any]:
    """A package.json, empty if it is missing or broken."""
    try:
        file = root / "package.json"
        package = json.loads(FileBlob(file).read(MAX_BYTES)) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}
    return package if isinstance(package, dict) else {}
