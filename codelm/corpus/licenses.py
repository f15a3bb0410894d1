"""Which licence a file is under: by the licence file nearest to it and by its own header, the more restrictive wins."""

import fnmatch
import hashlib
import re
from functools import cache
from typing import Any, NamedTuple

import yaml

from codelm.corpus.languages import DATA, language_of_name
from codelm.corpus.sources import Source

HEADER_CHARS = 4096
LICENSE_FILE_CHARS = 400_000

LICENSE_NAME = re.compile(r"(?:(?:un)?licen[sc]e|copying)(?:[-_.][\w.+-]*)?$", re.IGNORECASE)

# Between two words of a header: white space and the marks that comments put at the start of each line.
GAP = r"[\s#*/;%!\"'|>.-]+(?:(?:dnl|rem|c)\s+)?"
GNU_HEADER = re.compile(rf"\bGNU{GAP}(?:(?P<kind>Lesser|Affero|Library){GAP})?General{GAP}Public{GAP}Licen[sc]e", re.IGNORECASE)
GNU_VERSION = re.compile(rf"\bv(?:ersion)?{GAP}?(\d)(?:\.(\d))?(?P<later>.{{0,60}}?any{GAP}later{GAP}version)?", re.I | re.S)
GNU_OLDEST = {"GPL": "1.0", "LGPL": "2.0", "AGPL": "1.0"}
SPDX_HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() -]*[\w.+)])")
COPYRIGHT = re.compile(r"(?:\bcopyright\b|©)[^\n]*(?:\b\d{4}\b|\(c\)|©)[^\n]*|©[^\n]*\b\d{4}\b[^\n]*", re.IGNORECASE)
COPYRIGHT_LINES = 8


class License(NamedTuple):
    """What is known of a file's licence."""

    spdx: str | None
    """an SPDX expression, None if unknown"""
    method: str
    """header: in the file; file: a licence file above it; distribution: its distributor says so; unknown"""
    sha: str | None
    """SHA-256 of the text of the licence file"""
    copyright: list[str]


@cache
def known_licenses() -> dict[str, tuple[re.Pattern[str] | None, list[str], list[str]]]:
    """SPDX id → (title on a line of its own, phrases it has, phrases it has not)."""
    data: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "licenses.yaml").read_text(encoding="utf-8"))
    return {
        spdx: (
            re.compile(rf"^\s*{row['title']}\s*$", re.MULTILINE) if "title" in row else None,
            row.get("phrases", []),
            row.get("without", []),
        )
        for spdx, row in data.items()
    }


def identify(text: str) -> str | None:
    """The SPDX expression of a licence text; several licences in one text are joined by AND. None if unknown."""
    plain = " ".join(re.sub(r"[\"'`“”]", "", text).lower().split())
    found = [
        spdx
        for spdx, (title, phrases, without) in known_licenses().items()
        if (title is None or title.search(text))
        and all(phrase in plain for phrase in phrases)
        and not any(phrase in plain for phrase in without)
    ]
    return " AND ".join(found) or None


def header_license(text: str) -> str | None:
    """The SPDX expression that the first 4,096 characters of a source file state, or None."""
    head = text[:HEADER_CHARS]
    if spdx := SPDX_HEADER.search(head):
        return " ".join(spdx[1].split())
    if gnu := GNU_HEADER.search(head):
        family = {"lesser": "LGPL", "library": "LGPL", "affero": "AGPL"}.get((gnu["kind"] or "").lower(), "GPL")
        version = GNU_VERSION.search(head, gnu.end(), gnu.end() + 300)
        if not version:
            return f"{family}-{GNU_OLDEST[family]}-or-later"  # the licence's own reading of "no version stated"
        return f"{family}-{version[1]}.{version[2] or 0}-{'or-later' if version['later'] else 'only'}"
    return None


def copyright_lines(text: str) -> list[str]:
    """The copyright statements at the start of a text, without comment marks."""
    lines = (match[0].strip(" \t\r*#/;-\"'") for match in COPYRIGHT.finditer(text[:HEADER_CHARS]))
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))[:COPYRIGHT_LINES]


def denied(expression: str | None, patterns: list[str]) -> bool:
    """Whether no choice that an SPDX expression offers is free of the denied ids.

    An expression with parentheses is not taken apart: any denied id in it denies it.
    """
    if expression is None:
        return False

    def is_denied(part: str) -> bool:
        ids = [word for word in re.findall(r"[\w.+-]+", part) if word.upper() not in ("AND", "OR", "WITH")]
        return any(fnmatch.fnmatchcase(spdx.lower(), pattern.lower()) for spdx in ids for pattern in patterns)

    choices = [expression] if "(" in expression else re.split(r"\s+OR\s+", expression, flags=re.IGNORECASE)
    return all(is_denied(choice) for choice in choices)


class LicenseTree:
    """The licence files of a source, by folder."""

    def __init__(self, source: Source, max_chars: int = LICENSE_FILE_CHARS) -> None:
        self.source = source
        self.max_chars = max_chars
        self.texts: dict[str, str] = {}
        """SHA-256 → text of every licence file that was looked at"""
        self.files: dict[str, list[Any]] = {}
        self.found: dict[str, License | None] = {}
        for entry in source.entries:
            folder, _, name = entry.path.rpartition("/")
            if entry.rejection is None and LICENSE_NAME.match(name) and language_of_name(name) is None:
                self.files.setdefault(folder, []).append(entry)

    def nearest(self, path: str) -> License:
        """The licence that the nearest licence files at or above a path state."""
        folder = path.rpartition("/")[0]
        while True:
            found = self.of_folder(folder)
            if found or not folder:
                break
            folder = folder.rpartition("/")[0]
        if self.source.license:
            return License(self.source.license, "distribution", found and found.sha, found.copyright if found else [])
        return found or License(None, "unknown", None, [])

    def of_folder(self, folder: str) -> License | None:
        """What the licence files in one folder state together; None if it has none that can be read."""
        if folder not in self.found:
            texts = []
            for entry in self.files.get(folder, []):
                try:
                    with entry.file.open(encoding="utf-8", errors="replace") as file:
                        texts.append(file.read(self.max_chars))
                except OSError:
                    continue  # as good as absent: the files below it count as of unknown licence
            self.found[folder] = self.license_of("\n\n".join(texts)) if texts else None
        return self.found[folder]

    def license_of(self, text: str) -> License:
        """The licence that a text states; the text is kept."""
        sha = hashlib.sha256(text.encode()).hexdigest()
        self.texts[sha] = text
        spdx = identify(text)
        return License(spdx, "file" if spdx else "unknown", sha, copyright_lines(text))

    def license(self, path: str, text: str, patterns: list[str]) -> License:
        """The licence of a file. Its own header rules, unless only the licence around it is denied."""
        around = self.nearest(path)
        copyright = copyright_lines(text) or around.copyright
        header = header_license(text)
        if header is None or (denied(around.spdx, patterns) and not denied(header, patterns)):
            return around._replace(copyright=copyright)
        return License(header, "header", around.sha, copyright)
