"""Keys, tokens and passwords in source code: finds them, replaces them, together with personal data.

One automaton looks for the keywords of all rules at once; a rule's own pattern is tried only where one of its keywords stands.
The rules are data/secrets.yaml, which says what its fields mean.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import NamedTuple

import yaml
from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from codelm.config.corpus import Redaction
from codelm.corpus import pii
from codelm.corpus.pii import Span

ALONE = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))(?:%s)(?![A-Za-z0-9_])"
ASSIGNED = (
    r"[ \w.-]{0,40}+[\"'`]?+\]?+[ \t]{0,8}+(?::[ \t]?+[\w.\[\]| ]{1,30}+(?==))?"  # rest of the name, its type
    r"(?::=|=>|={1,3}|[:>,(]|(?<=[ \t])value=)[ \t]{0,8}+[bruBRU]{0,2}[\"'`]?"
    r"(?P<secret>%s)(?![A-Za-z0-9_+/=-])"
)
REACH = 300
"""Characters after a keyword in which the match of a rule with `within` must end."""
SURROGATE = re.compile("[\ud800-\udfff]")
NAME_BEFORE = re.compile(r"[\w.-]*$")
NAME_AFTER = re.compile(r"[\w.-]*")

PLACEHOLDER = re.compile(
    r"(?i)example|change_?me|placeholder|your|dummy|sample|redacted|fake|foo_?bar|insert|replace"
    r"|x{4}|\*{3}|\.{3}|(.)\1{5}|0123456|1234567|abcdefg|deadbeef|qwerty"
)
PLACEHOLDER_CHARS = 128
"""Longer secrets may hold such a text by chance."""
EXAMPLE = "EXAMPLE"
"""No chance writes it, at any length."""
SEPARATOR = re.compile(r"[_.:/-]")
RANDOM_CHARS = 8
"""The longest part between separators has at least as many, or the whole is made of words and numbers."""
RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
RANDOM_RUN_CHARS = 3.2
"""Characters in a run of one kind, on average: 1.8 in random base62, 2.1 in hex, 2.5 in base36; above 4 in words."""
LETTERS_RUN_CHARS = 2.7
"""The same where there are letters only: camelCase has many runs too."""
REPEATED_CHARS = 12
"""A secret of this length is replaced wherever it stands in the file, also where nothing says that it is one."""


class Finding(NamedTuple):
    """A secret in a text."""

    rule: str
    """its id in data/secrets.yaml"""
    description: str
    start: int
    """offset in characters of the secret itself, without the name and the quotes around it"""
    end: int
    line: int
    """from 1, like the column"""
    column: int
    entropy: float
    """Shannon entropy of its characters, in bits per character"""


class Redacted(NamedTuple):
    """A text without its secrets."""

    text: str
    found: dict[str, int]
    """kind → how often: a rule's id, or "email", "ip-address", "name" """


@dataclass(frozen=True)
class Rule:
    """What one kind of secret looks like."""

    id: str
    description: str
    keywords: tuple[str, ...]
    pattern: str
    within: int
    entropy: float
    random: bool
    allow: str | None
    allow_name: str | None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Its pattern; the group `secret`, if there is one, is the secret. Compiled when its keyword first turns up."""
        return re.compile(self.pattern, re.MULTILINE)

    def find(self, text: str, keyword: int) -> tuple[int, int] | None:
        """Start and end of the secret whose keyword stands at an offset."""
        if self.within:
            match = self.regex.search(text, max(keyword - self.within, 0), keyword + REACH)
        else:
            match = self.regex.match(text, keyword)
        if not match:
            return None
        start, end = match.span("secret" if "secret" in self.regex.groupindex else 0)
        secret = text[start:end]
        if EXAMPLE in secret or (len(secret) <= PLACEHOLDER_CHARS and PLACEHOLDER.search(secret)):
            return None
        if entropy(secret) < self.entropy or (self.random and not looks_random(secret)):
            return None
        if self.allow and re.search(self.allow, secret):
            return None
        if self.allow_name and re.search(self.allow_name, name_at(text, keyword)):
            return None
        return start, end


@cache
def rules() -> tuple[Rule, ...]:
    """All rules, the more special ones first."""
    text = (files("codelm.corpus") / "data" / "secrets.yaml").read_text()
    listed = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506, both are safe
    return tuple(
        Rule(
            id=rule["id"],
            description=rule["description"],
            keywords=tuple(rule["keywords"]),
            pattern=ALONE % rule["token"]
            if "token" in rule
            else ASSIGNED % rule["assigned"]
            if "assigned" in rule
            else rule["regex"],
            within=rule.get("within", 0),
            entropy=rule.get("entropy", 2.0),
            random=rule.get("random", False),
            allow=rule.get("allow"),
            allow_name=rule.get("allow_name"),
        )
        for rule in listed
    )


@cache
def automaton() -> tuple[AhoCorasick, list[list[tuple[int, Rule]]]]:
    """Finds all keywords; which rules, with their rank, want each."""
    wanted: dict[str, list[tuple[int, Rule]]] = defaultdict(list)
    for rank, rule in enumerate(rules()):
        for keyword in rule.keywords:
            wanted[keyword].append((rank, rule))
    return AhoCorasick(list(wanted), implementation=Implementation.DFA), list(wanted.values())


def keywords_in(text: str) -> Iterator[tuple[int, int, Rule]]:
    """Where a keyword stands, with the rank and the rule of each that wants it."""
    search, wanted = automaton()
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = text.replace("\u0130", "I").lower()  # the one character that is two in lower case
    try:
        hits = search.find_matches_as_indexes(lowered, overlapping=True)
    except UnicodeEncodeError:  # lone surrogates
        hits = search.find_matches_as_indexes(SURROGATE.sub("?", lowered), overlapping=True)
    for keyword, at, _ in hits:
        for rank, rule in wanted[keyword]:
            yield at, rank, rule


def spans(text: str) -> list[Span]:
    """The secrets of a text in order, none over another; where two rules find one, the rule that comes first has it."""
    found: list[tuple[int, Span]] = []
    behind: dict[int, int] = {}  # rank → end of its last secret
    for at, rank, rule in keywords_in(text):
        if at >= behind.get(rank, 0) and (place := rule.find(text, at)):
            found.append((rank, Span(*place, rule.id)))
            behind[rank] = place[1]
    return disjoint(found)


def disjoint(found: Iterable[tuple[int, Span]]) -> list[Span]:
    """Spans in order; of two that overlap, the one of lower rank."""
    chosen: list[tuple[int, Span]] = []
    for rank, span in sorted(found, key=lambda one: (one[1].start, one[0])):
        if chosen and span.start < chosen[-1][1].end:
            if rank >= chosen[-1][0]:
                continue
            chosen.pop()
        chosen.append((rank, span))
    return [span for _, span in chosen]


def scan(text: str) -> list[Finding]:
    """The secrets of a text, in order, none over another."""
    findings = []
    line, counted = 1, 0
    descriptions = {rule.id: rule.description for rule in rules()}
    for start, end, rule in spans(text):
        line += text.count("\n", counted, start)
        counted = start
        column = start - (text.rfind("\n", 0, start) + 1) + 1
        findings.append(Finding(rule, descriptions[rule], start, end, line, column, entropy(text[start:end])))
    return findings


def entropy(secret: str) -> float:
    """Shannon entropy in bits per character; 0 for an empty text."""
    length = len(secret)
    return sum(count * math.log2(length / count) for count in Counter(secret).values()) / length if length else 0.0


def looks_random(secret: str) -> bool:
    """Whether letters and digits change as often as chance makes them, which words of a name never do."""
    longest = max(SEPARATOR.split(secret), key=len)
    runs = RUN.findall(longest)
    if (len(longest) < RANDOM_CHARS and len(longest) < len(secret)) or not any(run.isalpha() for run in runs):
        return False
    mixed = any(run.isdigit() for run in runs) or any(mark in secret for mark in "!#$%^&*~+?")
    return sum(map(len, runs)) / len(runs) <= (RANDOM_RUN_CHARS if mixed else LETTERS_RUN_CHARS)


def name_at(text: str, offset: int) -> str:
    """The name around an offset, dots and hyphens being part of it."""
    before = NAME_BEFORE.search(text, max(offset - 60, 0), offset)
    after = NAME_AFTER.match(text, offset, offset + 60)
    return (before[0] if before else "") + (after[0] if after else "")


def redact(text: str, config: Redaction) -> Redacted:
    """The text with its secrets and personal data replaced; the licence header stays as it is.

    What is replaced stays a text of its kind, so that code still parses. Within a text, the same value always gets the same
    replacement and another value another one.
    """
    found: list[Span] = []
    if config.secrets:
        found += secret_spans(text)
    if config.emails:
        found += pii.emails(text)
    if config.ip_addresses:
        found += pii.ip_addresses(text)
    if config.names:
        found += pii.names(text)
    if not found:
        return Redacted(text, {})
    kept = pii.Attribution(text)
    replacements: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    parts: list[str] = []
    done = 0
    for start, end, kind in disjoint(enumerate(found)):
        if kept.holds(start, end):
            continue
        value = text[start:end]
        while value not in replacements:
            numbers[kind] += 1
            replacement = (
                pii.replacement(kind, value, numbers[kind]) or f"REDACTED_{kind.upper().replace('-', '_')}_{numbers[kind]}"
            )
            if replacement not in text:
                replacements[value] = replacement
        parts += [text[done:start], replacements[value]]
        counts[kind] += 1
        done = end
    return Redacted("".join([*parts, text[done:]]), dict(sorted(counts.items())))


def secret_spans(text: str) -> list[Span]:
    """The secrets, and every other place where one of them stands."""
    found = spans(text)
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate is a question mark then; the length stays
    kinds = {text[span.start : span.end]: span.kind for span in found if span.end - span.start >= REPEATED_CHARS}
    if kinds:
        values = list(kinds)
        search = AhoCorasick(values, matchkind=MatchKind.LeftmostLongest)
        found += [Span(start, end, kinds[values[value]]) for value, start, end in search.find_matches_as_indexes(text)]
    return found
