"""Which programming language a file is in: by its name, its first line and, where several share an extension, its text.

The facts are in data/languages.yaml and data/ambiguous.yaml.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

DATA = Path(__file__).parent / "data"

SHEBANG = re.compile(rb"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+)*(?:\w+=\S*\s+)*(?:\S*/)?)?([\w.+-]+)")
SETTLING_CHARS = 1 << 15
"""What has not shown by then will hardly show later."""


class LanguageMap(NamedTuple):
    """Lower-case extension (no dot), file name, beginning of a file name or interpreter → language."""

    extensions: dict[str, str]
    filenames: dict[str, str]
    prefixes: dict[str, str]
    interpreters: dict[str, str]
    names: tuple[str, ...]


@cache
def language_map() -> LanguageMap:
    """The map that ships with the package."""
    rows = yaml.safe_load((DATA / "languages.yaml").read_text(encoding="utf-8"))

    def by(kind: str) -> dict[str, str]:
        return {str(key): language for language, row in rows.items() for key in row.get(kind, ())}

    return LanguageMap(by("extensions"), by("filenames"), by("prefixes"), by("interpreters"), tuple(rows))


@cache
def ambiguous() -> dict[str, tuple[tuple[str | None, re.Pattern[str]], ...]]:
    """Extension that several languages share → (language, what tells it), the first that is found counts."""
    rows = yaml.safe_load((DATA / "ambiguous.yaml").read_text(encoding="utf-8"))
    return {
        extension: tuple((rule["language"], re.compile(rule["pattern"], re.MULTILINE)) for rule in rules)
        for extension, rules in rows.items()
    }


def extension_of(path: str) -> str:
    """What follows the last dot of the file name, in lower case."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot + 1 :].lower() if dot > 0 else ""


def language_of_name(path: str) -> str | None:
    """The language that a file name tells, or None; the likeliest, where several share the extension."""
    name = path[path.rfind("/") + 1 :]
    known = language_map()
    by_prefix = known.prefixes.get(name.partition(".")[0])
    return known.filenames.get(name) or known.extensions.get(extension_of(name)) or by_prefix


def languages_of_name(path: str) -> tuple[str, ...]:
    """All languages that a file of this name may be in, the likeliest first."""
    told = language_of_name(path)
    others = [language for language, _ in ambiguous().get(extension_of(path), ()) if is_open(path)]
    return tuple(dict.fromkeys(language for language in (told, *others) if language))


def is_open(path: str) -> bool:
    """Whether only the text tells the language."""
    return extension_of(path) in ambiguous() and path[path.rfind("/") + 1 :] not in language_map().filenames


def language_of_shebang(start: bytes) -> str | None:
    """The language of a script's `#!` line, or None. start: the first bytes of the file."""
    match = SHEBANG.match(start.split(b"\n", 1)[0])
    if not match:
        return None
    interpreter = match[1].decode("ascii", "replace").lower()
    known = language_map().interpreters
    return known.get(interpreter) or known.get(re.sub(r"[\d.-]+$", "", interpreter))


def language_of(path: str, head: Callable[[], bytes]) -> str | None:
    """The language by name, else, for a name without extension, by its `#!` line.

    head: gives the first 256 bytes, asked for only if needed; what it raises is passed on. Where `is_open(path)`, the
    answer is the likeliest and `settle` has the last word, once the text is there.
    """
    told = language_of_name(path)
    if told or extension_of(path):
        return told
    return language_of_shebang(head())


def settle(language: str, path: str, text: str) -> str | None:
    """The language of a text whose extension several languages share; None if it is none that codelm learns."""
    if not is_open(path):
        return language
    start = text[:SETTLING_CHARS]
    return next((told for told, pattern in ambiguous()[extension_of(path)] if pattern.search(start)), language)
