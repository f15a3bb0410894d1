"""The licence that a package's metadata state."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageMetadata
from typing import Any, cast

import yaml

from codelm.corpus.languages import DATA
from codelm.corpus.licenses.expressions import canonical, category, conjunction, parse, parts, rank
from codelm.corpus.licenses.headers import PROPRIETARY
from codelm.corpus.licenses.texts import by_hash, identify_by_phrases

MAX_NAME_CHARS = 120
"""A longer License field is a text."""


@cache
def short_names() -> tuple[dict[str, str], dict[str, str]]:
    """Trove classifier → SPDX expression, and short name (lower case, no marks) → SPDX expression."""
    data = yaml.safe_load((DATA / "license_names.yaml").read_text(encoding="utf-8"))
    return data["classifiers"], {plain(name): spdx for spdx, names in data["names"].items() for name in names}


def plain(name: str) -> str:
    """A name without case, marks, and the words that make no difference."""
    words = re.sub(r"[^a-z0-9.+]+", " ", name.lower()).replace("licence", "license").split()
    return " ".join(word for word in words if word not in ("the", "license", "licensed", "under", "version"))


def named_license(name: str) -> str | None:
    """The SPDX expression of a short name, a known SPDX expression, or names joined by "or", "and", "/"."""
    if spdx := short_names()[1].get(plain(name)):
        return spdx
    tree = parse(name)
    if tree is not None and all(category(parts(symbol)[0]) for symbol in tree.symbols):
        return canonical(name)
    for separator, operator in ((r"\s+or\s+|\s*/\s*|\s*\|\|?\s*", "OR"), (r"\s+and\s+|\s*[,;&+]\s+", "AND")):
        branches = re.split(separator, name.strip(" ()"), flags=re.IGNORECASE)
        if len(branches) > 1:
            named = [named_license(branch) for branch in branches if branch.strip()]
            return canonical(f" {operator} ".join(f"({one})" for one in named if one)) if named and all(named) else None
    return None


def stated_license(value: str) -> str | None:
    """The SPDX expression of a free licence field: a name, or a whole text."""
    value = value.strip()
    if len(value) <= MAX_NAME_CHARS and "\n" not in value:
        return named_license(value)
    found = by_hash(value)
    return found.spdx if found else identify_by_phrases(value)


def fields(metadata: PackageMetadata | Mapping[str, Any], name: str) -> list[str]:
    """All values of a field, whatever holds them."""
    get_all = getattr(metadata, "get_all", None)
    values = get_all(name) if get_all else cast(Mapping[str, Any], metadata).get(name)
    return [str(value) for value in ([values] if isinstance(values, str) else values or [])]


def python_license(metadata: PackageMetadata | Mapping[str, Any]) -> str | None:
    """The SPDX expression of a Python distribution: License-Expression (PEP 639), else the classifiers, else the License field.

    Several licence classifiers are joined by AND: they do not say whether all hold or one may be chosen. A classifier that
    names a family only ("BSD License") gives way to a License field that is more exact; a field that asks for more is added.
    """
    for value in fields(metadata, "License-Expression"):
        return canonical(value)
    stated = next((stated_license(value) for value in fields(metadata, "License") if value.strip()), None)
    known = short_names()[0]
    classifiers = [c for c in fields(metadata, "Classifier") if c.startswith("License ::") and c != "License :: OSI Approved"]
    if not classifiers:
        return stated
    found = [known.get(classifier.rpartition(" :: ")[2]) for classifier in classifiers]
    if not all(found):
        return stated  # one that we do not know may ask anything
    if len(found) == 1 and stated and same_family(found[0] or "", stated):
        return stated
    joined = conjunction(one for one in found if one)
    return conjunction([joined, stated]) if joined and stated and rank(stated) > rank(joined) else joined


def same_family(coarse: str, exact: str) -> bool:
    """Whether one simple expression only names the family or the version range of another one."""
    return exact.partition("-")[0] == coarse.partition("-")[0] and " " not in exact


def npm_license(package: Mapping[str, Any]) -> str | None:
    """The SPDX expression of a package.json: `license` as text or {type}, or the old list `licenses` to choose from.

    "SEE LICENSE IN …" is None, "UNLICENSED" is proprietary: nobody may use it.
    """

    def one(value: Any) -> str | None:
        if isinstance(value, Mapping):
            value = value.get("type") or value.get("name")
        if not isinstance(value, str) or re.match(r"\s*see licen[sc]e", value, re.IGNORECASE):
            return None
        if value.strip().upper() == "UNLICENSED":
            return PROPRIETARY
        return named_license(value) or canonical(value)

    value = package.get("license") or package.get("licenses") or package.get("licence")
    if not isinstance(value, list):
        return one(value)
    choices = [one(choice) for choice in value]
    return canonical(" OR ".join(f"({choice})" for choice in choices if choice)) if choices and all(choices) else None
