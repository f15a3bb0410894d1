"""Which Debian package a file belongs to: https://www.debian.org/doc/debian-policy/ch-docs.html#copyright-information."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codelm.corpus.sources.base import Entry, FileBlob, Origin

PREFIX = "debian/"

INSTALLED_TO = re.compile(r"/usr/(?:lib/python3/dist-packages|include(?:/[\w.]+-linux-\w+)?|(?:share|lib)/[^/]+)/")
"""Where files of a source package come to lie."""


@dataclass(frozen=True)
class DebianPackages:
    """The package database below `root`; everything is empty where there is none."""

    root: Path = Path("/")

    def owners(self, folder: Path) -> dict[str, str]:
        """Path below a folder → package, of all files that packages put there. folder: resolved."""
        try:
            start = b"".join(b"/" + os.fsencode(part) for part in folder.relative_to(self.root).parts) + b"/"
        except ValueError:
            return {}
        owners: dict[str, str] = {}
        for listing in sorted((self.root / "var/lib/dpkg/info").glob("*.list")):
            try:
                files = listing.read_bytes()
            except OSError:
                continue
            package = listing.stem.split(":")[0]
            for listed in files.split(b"\n"):
                line = b"/usr" + listed if listed.startswith(self.merged) else listed
                if line.startswith(start):
                    owners[line[len(start) :].decode("utf-8", "backslashreplace")] = package
        return owners

    @cached_property
    def merged(self) -> tuple[bytes, ...]:
        """Folders at the top that are links into /usr: packages still list them by their old names."""
        tops = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
        return tuple(f"/{top}/".encode() for top in tops if (self.root / top).is_symlink())

    @cached_property
    def versions(self) -> dict[str, str]:
        """Package → version."""
        try:
            status = (self.root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
        versions: dict[str, str] = {}
        for paragraph in status.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version): (.+)$", paragraph, re.MULTILINE))
            if len(fields) == 2:
                versions.setdefault(fields["Package"], fields["Version"])
        return versions

    def copyright_file(self, package: str) -> Path:
        """Where a package says what licences its files are under."""
        return self.root / "usr/share/doc" / package / "copyright"

    def license_files(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The copyright files of packages that do not state a licence for each of their files: then all of it counts."""
        unstated = {entry.origin for entry in entries if entry.license is None and entry.rejection is None}
        for origin in sorted(unstated, key=lambda origin: origin.repo):
            file = self.copyright_file(origin.repo.removeprefix(PREFIX))
            if origin.repo.startswith(PREFIX) and file.is_file():
                status = file.stat()
                yield Entry(origin, "copyright", FileBlob(file), status.st_size, str(status.st_mtime_ns))

    def origin(self, package: str) -> Origin:
        """A package as an origin; its files have licences of their own."""
        return Origin(PREFIX + package, self.versions.get(package))

    def license(self, package: str, file: Path) -> str | None:
        """The SPDX expression that the package's copyright file states for one of its files, or None."""
        from codelm.corpus.licenses.debian import debian_license

        installed = "/" + file.relative_to(self.root).as_posix()
        return debian_license(self.copyright_file(package), INSTALLED_TO.sub("", installed, count=1).lstrip("/"))
