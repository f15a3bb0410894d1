"""Installed Python packages: https://packaging.python.org/en/latest/specifications/recording-installed-packages/."""

import csv
import os
import posixpath
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path

from codelm.corpus.sources.base import Entry, ListedSource, Origin
from codelm.corpus.sources.debian import DebianPackages
from codelm.corpus.sources.folder import existing_folder
from codelm.corpus.sources.walk import Found, distinct, walk
from codelm.errors import UserError

METADATA = (".dist-info", ".egg-info")
LICENSE_NAME = re.compile(r"(?:licen[cs]e|copying|notice|authors|copyright)", re.IGNORECASE)


class Distribution(PathDistribution):
    """An installed distribution, by its metadata folder; metadata that are no Unicode are read all the same."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_text(self, filename: str) -> str | None:  # type: ignore[override]
        """One of the metadata files, or None; "" is the folder itself, which is a file in old distributions."""
        file = self.folder / filename
        try:
            if file.is_file():
                return file.read_bytes().decode("utf-8", "replace")
        except OSError:
            pass
        return None if filename else ""

    @property
    def project(self) -> str:
        """Its normalised name: https://packaging.python.org/en/latest/specifications/name-normalization/."""
        name = self.metadata["Name"] or self.folder.stem.split("-")[0]
        return re.sub(r"[^A-Za-z0-9]+", "-", str(name)).lower()

    def paths(self) -> Iterator[str]:
        """Its files as recorded, below the folder it is installed in; nothing if the record is missing or broken."""
        try:
            for file in self.files or ():
                yield posixpath.normpath(file.as_posix())
        except (csv.Error, ValueError, OSError):
            return


class PythonSource(ListedSource):
    """What is installed in one or more site-packages folders; each package is an origin of its own."""

    def __init__(
        self, given: str, folders: list[Path], skip: Path | None = None, packages: DebianPackages | None = None
    ) -> None:
        """folders: the earlier go before the later, as in sys.path. Raises UserError if nothing is installed there."""
        self.given = given
        self.folders = list(dict.fromkeys(existing_folder(given, folder) for folder in folders))
        self.skip = skip
        self.packages = packages or DebianPackages()
        if not self.distributions:
            raise UserError(f"{given}: no Python packages are installed there", "give a site-packages folder, python:DIR")

    @cached_property
    def distributions(self) -> list[tuple[Distribution, Origin]]:
        """All of them with their origins; of two of the same name the second is called so."""
        from codelm.corpus.licenses.metadata import python_license

        found = []
        repos: set[str] = set()
        for folder in self.folders:
            for path in sorted(path for suffix in METADATA for path in folder.glob("*" + suffix)):
                distribution = Distribution(path)
                metadata = distribution.metadata
                stated = python_license(metadata)
                repo = distinct(f"pypi/{distribution.project}", repos)
                version = str(metadata["Version"]) if metadata["Version"] else None
                method = "metadata" if stated else "unknown"
                found.append((distribution, Origin(repo, version, None, stated, method)))
        return found

    def list(self) -> Iterator[Entry]:
        """The files of all packages. A file that no package claims is Debian's, or has an unknown origin."""
        names: set[str] = set()
        for folder in self.folders:
            owners = self.packages.owners(folder)
            claims = self.claims(folder, owners)
            nobody = Origin(distinct(folder.name, names))
            for found in walk(folder, self.skip):
                top = found.path.split("/", 1)[0]
                if top.endswith(METADATA):
                    continue
                package = owners.get(found.path)
                origin = claims.get(found.path) or (self.packages.origin(package) if package else nobody)
                yield self.entry(found, origin, package)

    def entry(self, found: Found, origin: Origin, package: str | None) -> Entry:
        """One file. package: that of Debian which it belongs to, if it does."""
        stated = self.packages.license(package, found.file) if package and not found.rejection else None
        return found.entry(origin, stated, "debian" if stated else "unknown")

    def claims(self, folder: Path, owners: dict[str, str]) -> dict[str, Origin]:
        """Path below a folder → the package that installed it; the first that claims it has it.

        Debian's packages often come without a record: what is in the same Debian package as the metadata belongs to them.
        """
        here = [(one, origin) for one, origin in self.distributions if one.folder.parent == folder]
        claims: dict[str, Origin] = {}
        for distribution, origin in here:
            for path in distribution.paths():
                claims.setdefault(path, origin)
        by_package: dict[str, Origin] = {}
        for distribution, origin in here:
            inside = (f"{distribution.folder.name}{rest}" for rest in ("", "/METADATA", "/PKG-INFO"))
            for package in filter(None, map(owners.get, inside)):
                by_package.setdefault(package, origin)
        for path, package in owners.items():
            if package in by_package:
                claims.setdefault(path, by_package[package])
        return claims

    def license_files(self) -> Iterator[Entry]:
        """Those among the files, and those beside the metadata, which hold for the whole package.

        Texts below dist-info/licenses/ that mirror a folder of the package (pip/_vendor/certifi) hold for that folder. Beside
        a text for the whole, those of folders that are not installed (third_party/…, linked into a binary) hold for nothing.
        """
        yield from super().license_files()
        yield from self.packages.license_files(self.entries)
        folders: dict[str, set[str]] = {}
        for entry in self.entries:
            parents = folders.setdefault(entry.origin.repo, set())
            parent = entry.path.rpartition("/")[0]
            while parent and parent not in parents:
                parents.add(parent)
                parent = parent.rpartition("/")[0]
        for distribution, origin in self.distributions:
            taken: set[str] = set()
            texts = license_texts(distribution)
            has_one_for_all = any("/" not in found.path.removeprefix("licenses/") for found in texts)
            for found in texts:
                path = found.path.removeprefix("licenses/")
                parent, _, name = path.rpartition("/")
                candidates = [parent, parent.partition("/")[2]]  # with and without src/
                elsewhere = parent if has_one_for_all else ""
                place = next((one for one in candidates if one and one in folders.get(origin.repo, ())), elsewhere)
                yield found.entry(origin)._replace(path=distinct(f"{place}/{name}" if place else name, taken))


def license_texts(distribution: Distribution) -> list[Found]:
    """The files in a metadata folder that are licences by their name, by their place or by the metadata."""
    declared = {str(name) for name in distribution.metadata.get_all("License-File") or ()}
    return sorted(
        found
        for found in walk(distribution.folder)
        if not found.path.endswith("/")
        and (
            found.path in declared
            or found.path.startswith("licenses/")
            or ("/" not in found.path and LICENSE_NAME.match(found.path))
        )
    )


def running_python() -> list[Path]:
    """The folders that the running Python imports installed packages from."""
    named = [Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    standard = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    return [path for path in dict.fromkeys([*named, *standard]) if path.is_dir()]


def python_folders(given: Path) -> list[Path]:
    """The site-packages of a virtual environment, or else the folder itself."""
    if os.path.exists(given / "pyvenv.cfg"):  # noqa: PTH110 - no error where it may not be looked at
        return sorted(given.glob("lib/python3*/site-packages")) or [given]
    return [given]
