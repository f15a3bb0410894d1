"""Which paths are not first-party code: tests, vendored, generated, built, hidden. The rules are data/paths.yaml."""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any, NamedTuple

import yaml

from codelm.corpus.languages import DATA
from codelm.corpus.sources.base import Rejection

NEVER_ENTERED = {"__pycache__", "CVS"}
KEYS = ("part", "in", "unless", "stem", "Stem", "ext")
"""Of a rule in the data file."""
REMEMBERED = 1 << 14
"""Folders and file names: both come again and again."""


class Rule(NamedTuple):
    """One rule, with the keys of the data file; None: whatever it is."""

    rejection: Rejection
    part: re.Pattern[str] | None
    in_: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    stem: re.Pattern[str] | None
    cased_stem: re.Pattern[str] | None
    ext: re.Pattern[str] | None

    @property
    def anywhere(self) -> bool:
        """Whether it holds in any folder."""
        return self.part is None and self.in_ is None

    def named(self, stem: str) -> bool:
        """Whether a file with this stem falls under it."""
        return (self.stem is None or bool(self.stem.fullmatch(stem.lower()))) and (
            self.cased_stem is None or bool(self.cased_stem.fullmatch(stem))
        )


@cache
def data() -> dict[str, Any]:
    """What ships with the package."""
    loaded: dict[str, Any] = yaml.safe_load((DATA / "paths.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def rules() -> tuple[Rule, ...]:
    """The rules in their order."""

    def rule(reason: str, row: dict[str, str]) -> Rule:
        said = ", ".join(f"{key}: {row[key]}" for key in KEYS if key in row)
        return Rule(Rejection(reason, said), *(re.compile(row[key]) if key in row else None for key in KEYS))

    return tuple(rule(reason, row) for reason, rows in data()["rejected"].items() for row in rows)


class PathRules:
    """The rules for some of the reasons.

    The verdicts on the parts of a path are remembered, since they come again and again: a folder tells which rules hold in
    it, an extension which rules a name has to be held against.
    """

    def __init__(self, drop: frozenset[str]) -> None:
        self.rules = tuple(rule for rule in rules() if rule.rejection.reason in drop)
        self.of_part = lru_cache(REMEMBERED)(self._of_part)
        self.of_folder = lru_cache(REMEMBERED)(self._of_folder)
        self.of_ext = lru_cache(REMEMBERED)(self._of_ext)

    def _of_part(self, part: str) -> frozenset[int]:
        """The rules that a folder of this name falls under."""
        return frozenset(number for number, rule in enumerate(self.rules) if rule.part and rule.part.fullmatch(part))

    def _of_folder(self, folder: str) -> tuple[bool, frozenset[int]]:
        """Whether a rule takes all that is in a folder; and the rules that go by the folder and hold there."""
        lower = folder.lower()
        here = {number for number, rule in enumerate(self.rules) if rule.in_ and rule.in_.search(lower)}
        here = here.union(*map(self.of_part, lower.split("/")[:-1]))
        held = frozenset(number for number in here if not ((unless := self.rules[number].unless) and unless.search(lower)))
        whole = any(not (rule.ext or rule.stem or rule.cased_stem) for rule in map(self.rules.__getitem__, held))
        return whole, held

    def _of_ext(self, ext: str) -> tuple[dict[int, Rule], re.Pattern[str], re.Pattern[str]]:
        """The rules that a file with this extension may fall under; those for any folder as two patterns for its stem, in
        lower case and as it is."""
        may = {number: rule for number, rule in enumerate(self.rules) if rule.ext is None or rule.ext.fullmatch(ext)}
        anywhere = [rule for rule in may.values() if rule.anywhere]
        lower = [rule.stem.pattern if rule.stem else ".*" for rule in anywhere if not rule.cased_stem]
        cased = [rule.cased_stem.pattern for rule in anywhere if rule.cased_stem]
        return may, any_of(lower), any_of(cased)

    def rejection(self, path: str) -> Rejection | None:
        """The first rule that a path falls under."""
        slash = path.rfind("/") + 1
        folder, name = path[:slash], path[slash:]
        dot = name.rfind(".")
        stem, ext = (name[:dot], name[dot + 1 :]) if dot >= 0 else (name, "")
        whole, here = self.of_folder(folder)
        may, lower, cased = self.of_ext(ext.lower())
        if not (whole or (here and not here.isdisjoint(may.keys())) or lower.fullmatch(stem.lower()) or cased.fullmatch(stem)):
            return None
        for number, rule in may.items():
            if (rule.anywhere or number in here) and rule.named(stem):
                return rule.rejection
        return None


def matched(path: str, rejection: Rejection) -> tuple[str, list[str]] | None:
    """The folder or name for which a rule rejected a path, and the rule's keys; None if no rule rejects so."""
    rule = next((rule for rule in rules() if rule.rejection == rejection), None)
    if rule is None:
        return None
    folder, slash, name = path.rpartition("/")
    keys = [key for key, pattern in zip(KEYS, rule[1:], strict=True) if pattern and key != "unless"]
    found = None
    if rule.part:
        found = next((f"{part}/" for part in folder.split("/") if rule.part.fullmatch(part.lower())), None)
    elif rule.in_ and (place := rule.in_.search((folder + slash).lower())):
        found = place[0]
    return found or name, keys


def any_of(patterns: list[str]) -> re.Pattern[str]:
    """One pattern for all of them; for none, one that nothing matches."""
    return re.compile("|".join(patterns) if patterns else r"(?!)", re.DOTALL)


@cache
def path_rules(drop: frozenset[str]) -> PathRules:
    """The rules for some of the reasons."""
    return PathRules(drop)


def path_rejection(path: str, drop: Collection[str]) -> Rejection | None:
    """The rule that a path falls under, as detail. drop: which of tests, vendored, generated, build and hidden count."""
    return path_rules(frozenset(drop)).rejection(path)


def is_never_entered(folder: str) -> bool:
    """Whether a folder of this name holds no source at all: caches and version control come and go unseen."""
    return folder.startswith(".") or folder in NEVER_ENTERED


@cache
def pruned() -> frozenset[str]:
    """Names of folders that package managers fill."""
    return frozenset(data()["pruned"])


def is_pruned(folder: str) -> bool:
    """Whether a folder of this name holds packages that somebody installed there."""
    return folder in pruned()
