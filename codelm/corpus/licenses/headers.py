"""The licence that a source file states in its own first lines.

Works on the words of the head: comment marks, line ends, markup and case are out of the way before any pattern looks, so that
a sentence matches however it is wrapped and in whatever comments it stands.
"""

import re
from functools import cache
from typing import NamedTuple

import ahocorasick_rs
import yaml

from codelm.corpus.languages import DATA
from codelm.corpus.licenses.expressions import canonical, category, conjunction, parse

HEADER_CHARS = 4096
PROPRIETARY = "LicenseRef-proprietary"

SPDX_CONFIDENCE, NAMED_CONFIDENCE = 1.0, 0.95

HINTS = (b"licen", b"public", b"gpl", b"rights", b"permi", b"redistribut", b"proprietary", b"confidential")
"""A head without any of these states nothing."""

# ------------------------------------------------------------------ the words of a head

KEPT = b"abcdefghijklmnopqrstuvwxyz0123456789.+" + bytes(range(128, 256))
WORDS = bytes(byte if byte in KEPT else 32 for byte in (bytes([code]).lower()[0] for code in range(256)))
"""Byte → itself in lower case, or a space."""
LINE_WORDS = re.compile(
    rb"(?m)^[ \t]*(?:@?rem|dnl|[cC@*]|@c|@comment|echo|NB\.)(?=[ \t])|\\[nrt](?![a-z])|\\[nrt](?=[a-z]+[ \"'])", re.I
)
"""What comments put before a line, in words; line ends inside string literals."""
MARKUP = re.compile(rb"</?[a-zA-Z][^<>@\n]{0,200}>|&nbsp;|&#160;")
DOTS = re.compile(rb"\.(?![\da-z])")
"""Full stops that end a sentence: those in 2.0 and gnu.org stay."""


def words(head: str) -> str:
    """The words of a head in lower case, one space between them."""
    data = head.encode("utf-8", "replace")
    if b"<" in data or b"&" in data:
        data = MARKUP.sub(b" ", data)
    data = LINE_WORDS.sub(b" ", data).translate(WORDS)
    return b" ".join(DOTS.sub(b" ", data).split()).decode("utf-8", "replace")


# ------------------------------------------------------------------ SPDX-License-Identifier

SPDX = re.compile(r"SPDX-License-Identifier:", re.IGNORECASE)
SPDX_TOKEN = re.compile(
    r"(?P<gap>[ \t]*(?:\r?\n[ \t]*(?:(?:REM|dnl|[cC])[ \t])?[\s#*/;%!\"'|>.-]*)?)(?P<token>[A-Za-z0-9][\w.+:-]*|[()/])"
)
OPERATORS = {"AND", "OR", "WITH"}


def spdx_expression(text: str, start: int) -> str | None:
    """The expression after the tag, which may go on over lines while it is not complete; None if there is none."""
    tokens: list[str] = []
    depth = 0
    complete = False  # whether the tokens up to here are an expression
    position = start
    while token := SPDX_TOKEN.match(text, position):
        word = token["token"]
        operator = word.upper() in OPERATORS or word == "/"
        if "\n" in token["gap"]:
            if complete and not depth and word not in OPERATORS:
                break
            if not tokens and not category(word):
                break  # an empty tag, and code after it
        if word == "(" and not complete:
            depth += 1
        elif word == ")" and complete and depth:
            depth -= 1
        elif operator and complete:
            complete = False
            word = "OR" if word == "/" else word.upper()  # MIT/Apache-2.0 is how Cargo once wrote it
        elif not operator and word not in "()" and not complete:
            complete = True
            word = re.sub(r"[.:-]+$", "", word)
        else:
            break
        tokens.append(word)
        position = token.end()
    while tokens and (tokens[-1] in OPERATORS or tokens[-1] == "("):
        depth -= tokens.pop() == "("
    return canonical(" ".join(tokens) + ")" * depth)


# ------------------------------------------------------------------ the GNU family

GNU = re.compile(
    r"(?:\bgnu (?:(?P<kind>lesser|library|affero) )?(?:general )?public licen[sc]e"
    r"|\b(?P<alone>lesser |library |affero )?(?:gnu )?general public licen[sc]e"
    r"|\bgnu (?P<free>free documentation licen[sc]e|fdl)"
    r"|\bgnu (?:(?P<kind2>lesser|library|affero) )?(?P<short>[al]?gpl)(?P<v1>v? ?\d(?:\.\d)?\+?)?"
    r"|\b(?:under|under the|of the|terms of|licen[sc]e|licen[sc]es|licen[sc]ed) (?:is )?(?:the )?(?:terms of (?:the )?)?"
    r"(?:https?:?\S* )?(?:www\.)?(?:\S*gnu\.org\S* (?:licenses )?)?"
    r"(?P<bare>[al]?gpl)(?P<v2> ?v? ?\d(?:\.\d)?\+?)?(?:\.html|\.txt)?"
    r"|\b(?P<joined>[al]?gpl)(?P<v3> ?v ?\d(?:\.\d)?\+?| version \d(?:\.\d)?)"
    r"|\b(?P<dual>mit|bsd|apache|mpl|artistic) (?:and |or )?(?P<last>gpl)\b)"
    r"(?! (?:compatib|incompatib))"
)
FAMILY = {"lesser": "LGPL", "library": "LGPL", "affero": "AGPL", "lgpl": "LGPL", "agpl": "AGPL", "gpl": "GPL"}
OLDEST = {"GPL": "1.0", "LGPL": "2.0", "AGPL": "1.0", "GFDL": "1.1"}
KNOWN_VERSIONS = {
    "GPL": {"1.0", "2.0", "3.0"},
    "LGPL": {"2.0", "2.1", "3.0"},
    "AGPL": {"1.0", "3.0"},
    "GFDL": {"1.1", "1.2", "1.3"},
}
LATER = r"(?P<later>\+|[^.]{0,60}?\b(?:(?:any|or|and) (?:later|newer)|or (?:higher|greater|above)|(?:later|newer) version))"
VERSION = re.compile(rf"(?:\bv(?:ersion|er)?s?\.? ?|^ ?)(\d)(?:\.(\d))?\b{LATER}?")
VERSION_BEFORE = re.compile(
    rf"\bversion (\d)(?:\.(\d))?\b(?:{LATER}(?: version)?)?(?: \S+){{0,2}}? (?:of|from) (?:the )?(?:terms of )?(?:the )?$"
)
NOT_MEANT = re.compile(
    r"(?:compatib\w+ with|unlike|(?:\bnot|n t)(?: (?!receiv|see)\S+){0,6})(?: the)?(?: terms of)?(?: the)? ?$"
)
CLASSPATH = re.compile(r"\bclasspath exception\b|\bspecial exception\b.{0,200}\blinking this library\b")
CHOICE = re.compile(
    r"\balternatively\b|\bdual(?:ly)? licen|\b(?:tri|triple|multi) licen|\byour choice of\b|\bat your choice\b"
    r"|\blicen[sc]ed under either\b|\b(?:mit|bsd|apache|mpl|artistic) (?:or )?gpl\b|\bor gpl\b|\bgpl or\b|\beither the gnu\b"
    r"|\bor the gnu (?:lesser |affero |library )?general public\b"
)


def gnu_licenses(plain: str) -> list[str]:
    """The SPDX ids of the GNU licences that a head names, in order."""
    found: dict[str, str] = {}
    for match in GNU.finditer(plain):
        if NOT_MEANT.search(plain, max(0, match.start() - 80), match.start()):
            continue
        kind = match["kind"] or match["kind2"] or (match["alone"] or "").strip() or match["short"] or match["bare"]
        kind = kind or match["joined"] or match["last"]
        family = "GFDL" if match["free"] else FAMILY.get(kind or "", "GPL")
        version, later = gnu_version(plain, match)
        if version not in KNOWN_VERSIONS[family]:
            found.setdefault(family, "")
        elif not found.get(family):
            found[family] = f"{family}-{version}-{'or-later' if later else 'only'}"
    # without a version, any one may be chosen: GPL 2, section 9
    return [spdx or f"{family}-{OLDEST[family]}-or-later" for family, spdx in found.items()]


def gnu_version(plain: str, match: re.Match[str]) -> tuple[str | None, bool]:
    """Version and "or later", from beside the name of a licence."""
    stated = match["v1"] or match["v2"] or match["v3"]
    after = plain[match.end() : match.end() + 300]
    if following := GNU.search(after):
        after = after[: max(following.start(), 120)]
    if stated and (digits := re.search(r"(\d)(?:\.(\d))?(\+?)", stated)):
        later = bool(digits[3]) or bool(re.match(rf" ?{LATER}", after[:40]))
        return f"{digits[1]}.{digits[2] or 0}", later
    before = VERSION_BEFORE.search(plain, max(0, match.start() - 120), match.start())
    number = before or VERSION.search(after)
    if not number:
        return None, False
    return f"{number[1]}.{number[2] or 0}", bool(number["later"])


# ------------------------------------------------------------------ all others


class Named(NamedTuple):
    """A licence that is known by a pattern over the words of a head."""

    spdx: str
    pattern: re.Pattern[str]
    confidence: float


@cache
def named() -> tuple[list[Named], ahocorasick_rs.AhoCorasick, list[list[int]]]:
    """The patterns of data/licenses.yaml, and what tells which of them to try: the hints, and for each its patterns."""
    data = yaml.safe_load((DATA / "licenses.yaml").read_text(encoding="utf-8"))
    rows = {spdx: row for spdx, row in data.items() if "header" in row}
    hints: dict[str, list[int]] = {}
    for index, row in enumerate(rows.values()):
        for hint in row["hints"]:
            hints.setdefault(hint, []).append(index)
    patterns = [Named(spdx, re.compile(row["header"]), row.get("confidence", NAMED_CONFIDENCE)) for spdx, row in rows.items()]
    return patterns, ahocorasick_rs.AhoCorasick(list(hints)), list(hints.values())


def named_licenses(plain: str) -> dict[str, float]:
    """SPDX expression → confidence of what a head names outside the GNU family."""
    patterns, automaton, of_hint = named()
    matches = automaton.find_matches_as_indexes(plain, overlapping=True)
    hinted = sorted({index for hint, _, _ in matches for index in of_hint[hint]})
    found = {one.spdx: one.confidence for one in map(patterns.__getitem__, hinted) if one.pattern.search(plain)}
    if len(found) > 1:
        found.pop(PROPRIETARY, None)  # "proprietary" is a word of other licences too
    return found


class Header(NamedTuple):
    """What a head states."""

    spdx: str
    confidence: float


def header_license(text: str) -> Header | None:
    """The SPDX expression that the first 4,096 characters of a source file state, or None.

    Several licences are joined by AND, unless the words offer a choice. What the head says in words beside a SPDX tag counts
    only if the tag leaves a GNU licence out.
    """
    head = text[:HEADER_CHARS]
    lower = head.encode("utf-8", "replace").lower()
    if not any(hint in lower for hint in HINTS):
        return None
    tagged = None
    if b"spdx-license-identifier" in lower:
        tags = [spdx_expression(head, tag.end()) for tag in SPDX.finditer(head)]
        tagged = conjunction(filter(None, tags))
    plain = words(head)
    gnu = gnu_licenses(plain) if "public licen" in plain or "gpl" in plain or "gnu f" in plain else []
    if tagged:
        families = {spdx.partition("-")[0].upper() for spdx in keys(tagged)}
        spdx = conjunction([tagged, *(spdx for spdx in gnu if spdx.partition("-")[0] not in families)])
        return Header(spdx, SPDX_CONFIDENCE) if spdx else None
    others = named_licenses(plain)
    if gnu:
        others.pop(PROPRIETARY, None)
    names = [*others, *gnu]
    if not names:
        return None
    if gnu and CLASSPATH.search(plain):
        names = [f"{spdx} WITH Classpath-exception-2.0" if spdx.startswith("GPL-") else spdx for spdx in names]
    choice = len(names) > 1 and CHOICE.search(plain)
    spdx = canonical(" OR ".join(f"({name})" for name in names)) if choice else conjunction(names)
    return Header(spdx, min([*others.values(), *([NAMED_CONFIDENCE] if gnu else [])])) if spdx else None


def keys(expression: str) -> list[str]:
    """The ids in an expression."""
    tree = parse(expression)
    return [] if tree is None else [symbol.render() for symbol in tree.symbols]


# ------------------------------------------------------------------ copyright

COPYRIGHT = re.compile(r"(?:\bcopyright\b|©)[^\n]*(?:\b\d{4}\b|\(c\)|©)[^\n]*|©[^\n]*\b\d{4}\b[^\n]*", re.IGNORECASE)
COPYRIGHT_LINES = 8
COPYRIGHT_CHARS = 300


def copyright_lines(text: str) -> list[str]:
    """The copyright statements at the start of a text, without comment marks."""
    head = text[:HEADER_CHARS]
    if "©" not in head and "opyright" not in head and "OPYRIGHT" not in head:
        return []
    lines = (match[0].strip(" \t\r*#/;-\"'")[:COPYRIGHT_CHARS] for match in COPYRIGHT.finditer(head))
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))[:COPYRIGHT_LINES]
