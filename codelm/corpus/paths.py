"""Which paths are not first-party code: tests, vendored, generated, built, hidden."""

import re
from functools import cache
from typing import Any

import yaml

from codelm.corpus.languages import DATA

NEVER_ENTERED = {"__pycache__", "CVS"}


@cache
def rules() -> dict[str, Any]:
    """The rules that ship with the package, with compiled patterns."""
    data = yaml.safe_load((DATA / "paths.yaml").read_text(encoding="utf-8"))
    rejected = {
        reason: [re.compile(pattern, re.IGNORECASE) for pattern in patterns] for reason, patterns in data["rejected"].items()
    }
    return {"pruned": set(data["pruned"]), "rejected": rejected}


def is_never_entered(folder: str) -> bool:
    """Whether a folder of this name holds no source at all: caches and version control come and go unseen."""
    return folder.startswith(".") or folder in NEVER_ENTERED


def is_pruned(folder: str) -> bool:
    """Whether a folder of this name holds packages that somebody installed there."""
    return folder in rules()["pruned"]


def path_rejection(path: str) -> tuple[str, str] | None:
    """(reason, pattern) of the first rule that a path falls under, or None."""
    if path.rsplit("/", 1)[-1].startswith("."):
        return "hidden", ""
    for reason, patterns in rules()["rejected"].items():
        for pattern in patterns:
            if pattern.search(path):
                return reason, pattern.pattern
    return None
