"""Real repositories, site-packages and tables, made small."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from codelm.corpus.sources.base import Entry

Git = Callable[..., str]


@pytest.fixture(scope="session")
def git() -> Git:
    """Runs git in a folder as somebody of no account, and returns what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = {f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
    env = clean | identity | dates | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def run(folder: Path, *arguments: str) -> str:
        found = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, check=True)
        return found.stdout.decode("utf-8", "replace").strip()

    return run


@pytest.fixture(scope="session")
def by_place() -> Callable[[Iterable[Entry]], dict[str, Entry]]:
    """repo:path → entry; no two are alike."""

    def table(entries: Iterable[Entry]) -> dict[str, Entry]:
        listed = list(entries)
        found = {f"{entry.origin.repo}:{entry.path}": entry for entry in listed}
        assert len(found) == len(listed)
        return found

    return table
