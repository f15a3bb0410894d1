"""Which licence a text is: by the hash of its words, by scancode, by phrases, in this order."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from codelm.corpus.languages import DATA
from codelm.corpus.licenses.expressions import canonical, conjunction, fold, parse, rank
from codelm.corpus.licenses.normal import normal_hash
from codelm.corpus.licenses.scancode import Scancode, scancode_version
from codelm.progress import Progress, silent

CACHE_VERSION = 1
SCANCODE_CHARS = 100_000
"""What scancode looks at: it takes a second for 10,000."""
HASH_CHARS = 200_000

HASH_CONFIDENCE, PHRASE_CONFIDENCE = 1.0, 0.7
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Identified(NamedTuple):
    """What a licence text states."""

    spdx: str | None
    confidence: float
    by: str
    """hash, scancode or phrases"""


def decode(data: bytes) -> str:
    """The text of a licence file: UTF-8, UTF-16 with a byte order mark, else Latin-1, which takes anything."""
    encoding = next((name for bom, name in BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        # a character that was cut in two at the end is no reason to doubt the rest
        cut = encoding != "utf-8" or error.start >= len(data) - 3
        text = data.decode(encoding, "ignore") if cut else data.decode("latin-1")
    return text.replace("\x00", "")


def text_sha(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------ hashes and phrases


@cache
def hashes() -> dict[str, str]:
    """Hash of the words of a text → SPDX id."""
    data: dict[str, list[str]] = json.loads((DATA / "license_hashes.json").read_text(encoding="utf-8"))
    return {one: spdx for spdx, all_of_it in data.items() for one in all_of_it}


@cache
def known_phrases() -> dict[str, tuple[re.Pattern[str] | None, list[str], list[str]]]:
    """SPDX id → (title on a line of its own, phrases it has, phrases it has not)."""
    data: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "licenses.yaml").read_text(encoding="utf-8"))
    return {
        spdx: (
            re.compile(rf"^\s*{row['title']}\s*$", re.MULTILINE) if "title" in row else None,
            row.get("phrases", []),
            row.get("without", []),
        )
        for spdx, row in data.items()
        if "title" in row or "phrases" in row
    }


def identify_by_phrases(text: str) -> str | None:
    """The SPDX expression of a licence text by its phrases; several licences in one text are joined by AND. None if unknown."""
    plain = " ".join(re.sub(r"[\"'`“”]", "", text).lower().split())
    return conjunction(
        spdx
        for spdx, (title, phrases, without) in known_phrases().items()
        if (title is None or title.search(text))
        and all(phrase in plain for phrase in phrases)
        and not any(phrase in plain for phrase in without)
    )


# ------------------------------------------------------------------ what was found before


class Cache:
    """What scancode found, by the SHA-256 of the text, for all runs of a user. Lost or broken, it is made again."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.path = Path(home) / "codelm" / f"licenses-{CACHE_VERSION}-{scancode_version()}.json"
        self.found = self.read()
        self.new: dict[str, Identified] = {}

    def read(self) -> dict[str, Identified]:
        """What is on disk and makes sense."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                str(sha): Identified(spdx and str(spdx), float(confidence), "scancode")
                for sha, (spdx, confidence) in rows.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self) -> None:
        """Adds what is new to what others may have written meanwhile; a folder that cannot be written to is no error."""
        if not self.new:
            return
        rows = {sha: found[:2] for sha, found in sorted((self.read() | self.new).items())}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".", delete=False, encoding="utf-8") as file:
                file.write(json.dumps(rows, indent=0))
            Path(file.name).replace(self.path)
        except OSError:
            return
        self.new = {}


def identify(texts: Iterable[str], progress: Progress = silent) -> dict[str, Identified]:
    """SHA-256 of each text → what it states. scancode runs only if it is needed, and only while this does.

    progress: in characters.
    """
    found: dict[str, Identified] = {}
    cached = Cache()
    done = 0
    with Scancode() as scancode:
        try:
            for text in texts:
                sha = text_sha(text)
                if sha not in found:
                    found[sha] = by_hash(text) or cached.found.get(sha) or by_scancode(text, sha, scancode, cached)
                    done += len(text)
                    progress(done)
        finally:
            cached.write()
    return found


def by_hash(text: str) -> Identified | None:
    """A text that is one of the usual ones, word for word."""
    spdx = hashes().get(normal_hash(text)) if len(text) <= HASH_CHARS else None
    return Identified(spdx, HASH_CONFIDENCE, "hash") if spdx else None


def by_scancode(text: str, sha: str, scancode: Scancode, cached: Cache) -> Identified:
    """What scancode says of a text, or what its phrases say if scancode has no answer."""
    phrases = identify_by_phrases(text)
    answer = scancode.detect(text[:SCANCODE_CHARS]) if text.strip() else None
    if answer is None:
        return Identified(phrases, PHRASE_CONFIDENCE if phrases else 0.0, "phrases")
    spdx, confidence = without_references(answer.spdx), answer.confidence
    if spdx is None:
        spdx, confidence = phrases, PHRASE_CONFIDENCE
    if len(text) > SCANCODE_CHARS and phrases and (spdx is None or rank(phrases) > rank(spdx)):
        spdx, confidence = conjunction(filter(None, [spdx, phrases])), PHRASE_CONFIDENCE  # it saw only the beginning
    found = Identified(spdx, confidence if spdx else 0.0, "scancode")
    cached.new[sha] = found
    return found


REFERENCES = {f"licenseref-scancode-{name}" for name in ("unknown-license-reference", "unknown", "unknown-spdx", "generic-cla")}
EXCEPTION = re.compile(r"-exception(?:-[\d.]+)?$", re.IGNORECASE)
"""A permission beyond a licence that stands elsewhere."""


def without_references(expression: str | None) -> str | None:
    """An expression without "see the licence in …" and what asks nothing of users: terms for contributors, lone exceptions.

    None if nothing else is in it.
    """
    tree = parse(expression)
    if tree is None:
        return None

    def join(operator: str) -> Callable[[list[str | None]], str | None]:
        return lambda values: operator.join(f"({value})" for value in values if value) or None

    def leaf(names: tuple[str, ...]) -> str | None:
        return None if names[0].lower() in REFERENCES or EXCEPTION.search(names[0]) else " WITH ".join(names)

    return canonical(fold(tree, leaf, join(" AND "), join(" OR ")))
