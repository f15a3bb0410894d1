"""What git does not see: .gitignore in each folder and .git/info/exclude (gitignore(5))."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

IGNORE = ".gitignore"
EXCLUDE = ".git/info/exclude"
READ_LIMIT = 1 << 18
"""Bytes of an ignore file."""


class Patterns(NamedTuple):
    """The patterns of one file."""

    base: str
    """the folder that they are relative to: "" or ends in "/", below the top of the repository"""
    spec: GitIgnoreSpec


class Ignore(NamedTuple):
    """All patterns that hold in a folder, the strongest last."""

    patterns: tuple[Patterns, ...] = ()

    def entered(self, base: str, read: Callable[[str], str | None]) -> "Ignore":
        """The patterns that hold in the folder `base` inside the one that these are of. read: path → text of a file."""
        found = list(self.patterns)
        for name in (EXCLUDE, IGNORE) if not base else (IGNORE,):
            text = read(base + name)
            if text is not None and (spec := parsed(text)):
                found.append(Patterns(base, spec))
        return Ignore(tuple(found))

    def ignores(self, path: str) -> bool:
        """path: from the top of the repository; of a folder with "/" at its end."""
        for base, spec in reversed(self.patterns):
            verdict = spec.check_file(path.removeprefix(base)).include
            if verdict is not None:
                return verdict
        return False


def parsed(text: str) -> GitIgnoreSpec | None:
    """The patterns of a text; a line that is none is passed over. None if there are none."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return GitIgnoreSpec.from_lines(lines) if lines else None
    except ValueError:
        return GitIgnoreSpec.from_lines(line for line in lines if is_pattern(line))


def is_pattern(line: str) -> bool:
    """Whether pathspec can read it."""
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def top_of(folder: Path) -> Path:
    """The folder with .git in which a folder stands, or the folder itself."""
    return next((above for above in (folder, *folder.parents) if os.path.lexists(above / ".git")), folder)
