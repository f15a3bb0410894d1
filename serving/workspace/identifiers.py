"""The identifiers of a text, and the words that they are made of: the terms by which chunks are found."""

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

IDENTIFIER = re.compile(r"[^\W\d]\w{2,63}")
"""Shorter ones say little; longer ones are data."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
SHORTEST = 3
"""Characters of a word."""
DECLARED = re.compile(
    r"\b(?:def|class|func|fun|fn|function|struct|interface|trait|enum|union|type|typedef|const|let|var|val|module|record"
    r"|object|impl|macro_rules!|#define)\s+(?:\([^)\n]*\)\s*)?([^\W\d]\w{2,63})"
)
"""Where most languages say a name for the first time."""


class Words(NamedTuple):
    """What a text is found by. counts: term → how often it occurs. length: identifiers in all."""

    counts: Counter[str]
    length: int


@lru_cache(maxsize=1 << 15)
def terms(identifier: str) -> tuple[str, ...]:
    """An identifier as a whole and its words, all in lower case: getUserName → getusername, get, user, name."""
    words = [word.lower() for word in WORD.findall(identifier) if len(word) >= SHORTEST]
    return tuple(dict.fromkeys((identifier.lower().replace("_", ""), *words)))


def declaration(identifier: str) -> str:
    """The term for the place where an identifier is declared."""
    return f"={identifier}"


def words(text: str) -> Words:
    """The terms of a text; keywords are among them."""
    identifiers = Counter(IDENTIFIER.findall(text))
    counts: Counter[str] = Counter()
    for identifier, count in identifiers.items():
        for term in terms(identifier):
            counts[term] += count
    for identifier in DECLARED.findall(text):
        counts[declaration(identifier)] += 1
    return Words(counts, identifiers.total())
