"""SPDX expressions (SPDX specification, annex D): parsed, written in the usual way, and ranked by how much they ask."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

import yaml

from codelm.corpus.languages import DATA

MAX_CHARS = 4000
MOST = 3
RANKS = {"public-domain": 0, "permissive": 1, "weak-copyleft": 2, "copyleft": MOST, "proprietary": MOST}
"""Category → how much it asks. What has no category asks most."""

NOTHING_SAID = {"none", "noassertion", "unknown"}
DEPRECATED = re.compile(r"([AL]?GPL|GFDL)-(\d)(?:\.(\d))?(\+?)$", re.IGNORECASE)
WITH_INSIDE = re.compile(r"(GPL-[123]\.0)(\+?)-with-([\w-]+)-exception$", re.IGNORECASE)
OLD_EXCEPTIONS = {
    "autoconf": "Autoconf-exception-2.0",
    "bison": "Bison-exception-2.2",
    "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0",
    "gcc": "GCC-exception-2.0",
}
RENAMED = {"bsd-2-clause-freebsd": "BSD-2-Clause", "bsd-2-clause-netbsd": "BSD-2-Clause", "standardml-nj": "SMLNJ"}


@cache
def categories() -> dict[str, str]:
    """Lower-case SPDX id, without -only and -or-later → category."""
    data: dict[str, list[str]] = yaml.safe_load((DATA / "license_categories.yaml").read_text(encoding="utf-8"))
    return {spdx.lower(): category for category, ids in data.items() for spdx in ids}


@cache
def proper_names() -> dict[str, str]:
    """Lower-case SPDX id → as SPDX writes it."""
    data: dict[str, list[str]] = yaml.safe_load((DATA / "license_categories.yaml").read_text(encoding="utf-8"))
    return {spdx.lower(): spdx for ids in data.values() for spdx in ids}


def stranger(name: str) -> str | None:
    """What to say of a name in a policy that is no category, no SPDX id and no pattern (*, ?) of one; None if it is."""
    from license_expression import get_spdx_licensing  # type: ignore[import-untyped]

    lower = name.lower().partition(" with ")[0]
    if name in RANKS or lower.startswith("licenseref-"):
        return None
    ids = {**proper_names(), **{key.lower(): key for key in get_spdx_licensing().known_symbols}}
    ids |= {f"{spdx}-{ending}": f"{proper}-{ending}" for spdx, proper in ids.items() for ending in ("only", "or-later")}
    if lower in ids or fnmatch.filter(ids, lower):
        return None
    close = difflib.get_close_matches(lower, [*RANKS, *ids], n=1)
    return f"did you mean {ids.get(close[0], close[0])!r}?" if close else f"categories: {', '.join(RANKS)}; else an SPDX id"


def category(spdx: str) -> str | None:
    """The category of one licence, or None if we do not know it."""
    return categories().get(re.sub(r"(?:\+|-only|-or-later)$", "", spdx.lower()))


def proper(spdx: str) -> str:
    """A licence id as SPDX writes it now: case, GPL-2.0+ → GPL-2.0-or-later."""
    if gnu := DEPRECATED.match(spdx):
        return f"{gnu[1].upper()}-{gnu[2]}.{gnu[3] or 0}-{'or-later' if gnu[4] else 'only'}"
    lower = spdx.lower()
    for ending in ("-or-later", "-only", "+"):
        if lower.endswith(ending):
            return proper_names().get(base := lower.removesuffix(ending), spdx[: len(base)]) + ending
    return RENAMED.get(lower) or proper_names().get(lower, spdx)


def parse(expression: str | None) -> Any | None:
    """The tree of an expression: nodes with `args`, leaves with `key`; None if it says nothing or cannot be read."""
    if not expression or len(expression) > MAX_CHARS or expression.strip().lower() in NOTHING_SAID:
        return None
    return _parse(expression)


@lru_cache(maxsize=65536)
def _parse(expression: str) -> Any | None:
    try:
        tree = _licensing().parse(WITH_INSIDE.sub(lambda m: f"{m[1]}{m[2]} WITH {_exception(m[3])}", expression.strip()))
    except Exception:  # the library raises ParseError, ExpressionError, IndexError, RecursionError, …
        return None
    return None if tree is None or any(" " in spdx for symbol in tree.symbols for spdx in parts(symbol)) else tree


@cache
def _licensing() -> Any:
    from license_expression import Licensing

    return Licensing()


def _exception(name: str) -> str:
    return OLD_EXCEPTIONS.get(name.lower(), f"{name}-exception")


def parts(symbol: Any) -> tuple[str, ...]:
    """(licence,) or (licence, exception) of a leaf."""
    if hasattr(symbol, "license_symbol"):
        return symbol.license_symbol.key, symbol.exception_symbol.key
    return (symbol.key,)


def fold(tree: Any, leaf: Callable[[tuple[str, ...]], Any], both: Callable[..., Any], either: Callable[..., Any]) -> Any:
    """Works out a tree from its leaves: `both` takes the values below an AND, `either` those below an OR."""
    if not tree.args or hasattr(tree, "key"):
        return leaf(parts(tree))
    values = [fold(branch, leaf, both, either) for branch in tree.args]
    return (both if type(tree).__name__ == "AND" else either)(values)


def rank(expression: str | None) -> int:
    """How much an expression asks: the least of what OR offers, the most of what AND joins."""
    tree = parse(expression)
    return MOST if tree is None else fold(tree, lambda leaf: RANKS.get(category(leaf[0]) or "", MOST), max, min)


def canonical(expression: str | None) -> str | None:
    """The expression with proper ids, no more parentheses than needed and nothing twice; None if it cannot be read."""
    tree = parse(expression)
    if tree is None:
        return None

    # a value is what joins its parts, and the parts as text
    def leaf(names: tuple[str, ...]) -> tuple[str, list[str]]:
        return "", [" WITH ".join([proper(names[0]), *names[1:]])]

    def join(operator: str) -> Callable[[list[tuple[str, list[str]]]], tuple[str, list[str]]]:
        def joined(values: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
            texts: dict[str, None] = {}
            for inner, parts in values:
                texts.update(dict.fromkeys(parts if inner in ("", operator) else [grouped(inner, parts)]))
            return operator if len(texts) > 1 else "", list(texts)

        return joined

    def grouped(operator: str, parts: list[str]) -> str:
        text = operator.join(parts)
        return f"({text})" if operator == " OR " else text  # AND binds more

    operator, texts = fold(tree, leaf, join(" AND "), join(" OR "))
    return str(operator.join(texts))


def conjunction(expressions: Iterable[str]) -> str | None:
    """All of them together, in the order given; None if there are none or they cannot be read."""
    unique = list(dict.fromkeys(expressions))
    return canonical(" AND ".join(f"({one})" for one in unique)) if unique else None
