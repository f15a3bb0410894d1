"""Rows of tables as files: the columns that public sets of code use, brought to one schema by their names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Self

from codelm.corpus.languages import language_map
from codelm.corpus.sources.base import Entry, Origin, Rejection, TextBlob

NAMES = {
    "content": ("content", "whole_func_string", "func_code_string", "original_string", "code", "text"),
    "path": ("path", "max_stars_repo_path", "func_path_in_repository", "file_path"),
    "repo": ("repo_name", "max_stars_repo_name", "repository_name", "repo"),
    "license": ("license", "licenses", "max_stars_repo_licenses"),
    "language": ("lang", "language"),
    "commit": ("max_stars_repo_head_hexsha", "commit", "sha"),
    "url": ("func_code_url", "url"),
    "docstring": ("func_documentation_string", "docstring"),
    "name": ("func_name",),
    "split": ("split_name",),
}
"""Field → what sets call it; the first that is there counts."""

NAMELESS = Rejection("language", "the table has neither a path nor a language column")
BLOB_ADDRESS = re.compile(r"(https://github\.com/[^/]+/[^/]+/blob/([0-9a-f]{40})/)")
UNSTATED = {"", "none", "null", "other", "unknown", "noassertion", "no license"}


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what."""

    of: Mapping[str, str]
    """field → column"""

    @classmethod
    def among(cls, names: Iterable[str]) -> Self | None:
        """The known columns, or None if none of them holds code."""
        there = set(names)
        found = {field: next((name for name in known if name in there), None) for field, known in NAMES.items()}
        chosen = {field: column for field, column in found.items() if column}
        return cls(chosen) if "content" in chosen else None

    def entry(self, row: Mapping[str, Any], place: str, table: Origin, stamp: str) -> Entry:
        """A row as a file. place: the path of one that has none, but for its ending. table: the origin of one without."""
        get = {field: row.get(column) for field, column in self.of.items()}
        content = get.get("content")
        path = self.path(get, place)
        origin = self.origin(get, table)
        if isinstance(content, str):
            content = content.encode("utf-8", "surrogatepass")  # not Unicode: later steps say so
        if not isinstance(content, bytes):
            why = "no content" if content is None else "the content is no text"
            return Entry(origin, path, None, None, stamp, Rejection("unreadable", why))
        if self.of.keys().isdisjoint(("path", "language")) and not content.startswith(b"#!"):
            return Entry(origin, path, None, len(content), stamp, NAMELESS)
        stated = column_license(as_key(get.get("license")))
        method = "column" if stated else "unknown"
        return Entry(origin, path, TextBlob(content), len(content), stamp, None, stated, method)

    def path(self, row: Mapping[str, Any], place: str) -> str:
        """The path of a row's file; one with the language's extension if it has none."""
        path = (text(row.get("path")) or "").strip("/").removeprefix("./")
        return path or place + extension(text(row.get("language")) or "")

    def origin(self, row: Mapping[str, Any], table: Origin) -> Origin:
        """The repository of a row, with the address of its files where the row tells it."""
        repo = text(row.get("repo"))
        if not repo:
            return table
        address = BLOB_ADDRESS.match(text(row.get("url")) or "")
        if address:
            return Origin(repo, address[2], address[1].replace("{", "{{").replace("}", "}}") + "{path}")
        commit = text(row.get("commit"))
        if commit and self.of.get("commit") == "max_stars_repo_head_hexsha":  # The Stack is of GitHub
            return Origin(repo, commit, f"https://github.com/{repo}/blob/{commit}/".replace("{", "{{") + "{path}")
        return Origin(repo, commit)


def text(value: Any) -> str | None:
    """A cell as valid Unicode; None if it is no text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else None


def as_key(value: Any) -> str | tuple[str, ...] | None:
    """What a licence column holds, as a key."""
    if isinstance(value, list):
        return tuple(text(one) or "" for one in value)
    return text(value)


@lru_cache(4096)
def column_license(stated: str | tuple[str, ...] | None) -> str | None:
    """A licence column as an SPDX expression, None if it tells nothing.

    A list holds all licences found in the repository, and which of them a file is under is not known: all must be
    observed (AND), and if one is unknown, so is the whole. What SPDX does not know becomes a LicenseRef.
    """
    if stated is None or stated == ():
        return None
    from codelm.corpus.licenses.expressions import conjunction
    from codelm.corpus.licenses.metadata import named_license

    if isinstance(stated, tuple):
        each = [column_license(one) for one in stated]
        return conjunction(map(str, each)) if all(each) else None
    if stated.strip().lower() in UNSTATED:
        return None
    return named_license(stated) or "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.]+", "-", stated).strip("-")[:64] or "unnamed")


@cache
def extension(language: str) -> str:
    """A file name's extension for a language, "" if it is unknown."""
    known = language_map().extensions.items()
    return next((f".{ending}" for ending, name in known if name.lower() == language.lower()), "")
