"""Which programming language a file is in, by its name or its first line."""

import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml

DATA = Path(__file__).parent / "data"

SHEBANG = re.compile(rb"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+)*(?:\w+=\S*\s+)*(?:\S*/)?)?([\w.+-]+)")


class LanguageMap(NamedTuple):
    """Lower-case extension (no dot), file name or interpreter → language."""

    extensions: dict[str, str]
    filenames: dict[str, str]
    interpreters: dict[str, str]
    names: tuple[str, ...]


@cache
def language_map() -> LanguageMap:
    """The map that ships with the package."""
    rows = yaml.safe_load((DATA / "languages.yaml").read_text(encoding="utf-8"))

    def by(kind: str) -> dict[str, str]:
        return {key: language for language, row in rows.items() for key in row.get(kind, ())}

    return LanguageMap(by("extensions"), by("filenames"), by("interpreters"), tuple(rows))


def language_of_name(path: str) -> str | None:
    """The language that a file name tells, or None."""
    name = PurePosixPath(path).name
    known = language_map()
    if name in known.filenames:
        return known.filenames[name]
    return known.extensions.get(PurePosixPath(name).suffix[1:].lower())


def language_of_shebang(start: bytes) -> str | None:
    """The language of a script's `#!` line, or None. start: the first bytes of the file."""
    match = SHEBANG.match(start.split(b"\n", 1)[0])
    if not match:
        return None
    interpreter = match[1].decode("ascii", "replace").lower()
    known = language_map().interpreters
    return known.get(interpreter) or known.get(re.sub(r"[\d.-]+$", "", interpreter))
