"""E-mail addresses, public IP addresses and the names in author lines; and what must stay, the notices of the licence.

Each kind has a mark that is quick to find (the @, the dots, the word author) and is looked at closely only there. The lists of
names and addresses that stand for nobody are data/pii.yaml.
"""

import ipaddress
import re
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.resources import files
from typing import NamedTuple

import yaml
from ahocorasick_rs import AhoCorasick, Implementation

EMAIL, IP_ADDRESS, NAME = "email", "ip-address", "name"


class Span(NamedTuple):
    """A part of a text, in characters."""

    start: int
    end: int
    kind: str


@cache
def words(key: str) -> frozenset[str]:
    """A list of data/pii.yaml."""
    listed = yaml.safe_load((files("codelm.corpus") / "data" / "pii.yaml").read_text())[key]
    return frozenset(" ".join(listed.values() if isinstance(listed, dict) else [listed]).split())


# --- e-mail addresses

DOMAIN = re.compile(r"@([A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,5}([A-Za-z]{2,24}))(?![\w(@\[-]|\.[\w])")
LOCAL = re.compile(r"[A-Za-z0-9][\w.+%-]{0,63}$", re.ASCII)
USERINFO = re.compile(r"(?<!mailto)://[^\s/\"'<>]*$")
PLACEHOLDER_LOCAL = re.compile(
    r"(?i)^(?:no-?reply|do-?not-?reply|(?:your|my|some|any)[\w.-]*|[\w.-]*example[\w.-]*|x+|test\d*|user\d*)$"
)


def emails(text: str) -> Iterator[Span]:
    """Addresses of persons; not those of examples and robots, and not the user of a URL."""
    if "@" not in text:
        return
    for match in DOMAIN.finditer(text):
        at, domain = match.start(), match[1].lower()
        if not at or not (text[at - 1].isalnum() or text[at - 1] in "_+-%"):
            continue
        local = LOCAL.search(text, max(at - 64, 0), at)
        if not local or match[2].lower() not in words("domains"):
            continue
        name = local[0].lower()
        start = local.start()
        escaped = start and text[start - 1] == "\\" and name[0] in "nrt"  # "\njane@…" in a string
        if escaped:
            start, name = start + 1, name[1:]
        if not name or name in words("nobody") or PLACEHOLDER_LOCAL.match(name) or nobody_at(domain):
            continue
        if USERINFO.search(text, max(start - 100, 0), start):
            continue
        yield Span(start, match.end(), EMAIL)


def nobody_at(domain: str) -> bool:
    """Whether a domain, or one above it, is of examples."""
    labels = domain.split(".")
    return any(".".join(labels[i:]) in words("public_domains") for i in range(len(labels) - 1)) or "example" in labels


# --- addresses of machines

IPV4_TAIL = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\w|\.\d|-\w)", re.ASCII)
IPV4_HEAD = re.compile(r"(?<![\w.-])\d{1,3}$", re.ASCII)
VERSION = re.compile(
    r"(?i)(?:version|release|assembly|firmware|\bver|\bv|[=<>~!]=|\boid|§|section|chapter|rfc|[a-z]/)[\"'\s:=(]*$"
)
IPV6_MARK = re.compile(r":[0-9a-fA-F]{1,4}:")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,35}(?![\w:.])", re.ASCII)
OBJECT_IDENTIFIERS = ("1.3.", "2.5.")
SMALL = 32
"""Four numbers below it are a version, a section or an object identifier rather than a machine."""


def ip_addresses(text: str) -> Iterator[Span]:
    """Public addresses; not those of examples, versions and well-known resolvers."""
    for match in IPV4_TAIL.finditer(text):
        dot = match.start()
        head = IPV4_HEAD.search(text, max(dot - 3, 0), dot) if text[dot - 1 : dot].isdigit() else None
        address = text[head.start() : match.end()] if head else ""
        if not head or not public(address):
            continue
        if max(map(int, address.split("."))) < SMALL or address.startswith(OBJECT_IDENTIFIERS):
            continue
        if VERSION.search(text, max(head.start() - 24, 0), head.start()):
            continue
        yield Span(head.start(), match.end(), IP_ADDRESS)
    done = 0
    for match in IPV6_MARK.finditer(text):
        if match.start() >= done and (whole := IPV6.search(text, max(match.start() - 4, 0), match.end() + 40)):
            done = whole.end()
            if whole.start() < match.start() and public(whole[0]):
                yield Span(*whole.span(), IP_ADDRESS)


def public(address: str) -> bool:
    """Whether it is the address of some machine in the internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and address.lower() not in words("addresses")


# --- names

AUTHOR = re.compile(
    r"(?im)(?P<single>(?<![\w.])@author\s*:?\s+|:authors?:\s+|__authors?__\s*=\s*[\[(]?\s*)"
    r"|(?<![\w.-])(?:(?:original |main |lead |first )?authors?(?:\(s\))?|(?:current )?maintainers?)[\"']?\s{0,8}[:=>]\s{0,8}"
    r"|^[^\w\n]{0,20}(?:\w{1,12} )?(?:written|created|developed|contributed|maintained|ported|designed|implemented) by\s*:?\s+"
)
BETWEEN = re.compile(r"\s*(?:,|;|&|/|\band\b)\s*")
LETTER = r"(?:[^\W\d_]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|&[a-z]{3,8};)"
WORD = rf"{LETTER}(?:{LETTER}|['’.-])*"
PERSON = re.compile(rf"{WORD}(?: {WORD}){{0,4}}(?![\w\\&])")
AFTER_NAME = re.compile(r"[\"'`]?(?:\s*<[^<>\n]*>|\s*\([^()\n]*\))?[\"'`]?")
LONGEST_LINE = 300


@cache
def author_marks() -> AhoCorasick:
    """What every author line holds, in its cases."""
    return AhoCorasick(
        ["uthor", "AUTHOR", "aintainer", "MAINTAINER", "ed by ", "en by ", "ed By ", "en By "],
        implementation=Implementation.DFA,
    )


def names(text: str) -> Iterator[Span]:
    """Names of persons in author lines."""
    try:
        hits = author_marks().find_matches_as_indexes(text)
    except UnicodeEncodeError:  # lone surrogates
        return
    done = 0
    for _, at, after in hits:
        if at < done:
            continue
        begin = max(text.rfind("\n", max(at - LONGEST_LINE, 0), at) + 1, at - LONGEST_LINE, 0)
        done = text.find("\n", after, after + LONGEST_LINE)
        done = done if done >= 0 else min(after + LONGEST_LINE, len(text))
        if match := AUTHOR.search(text, begin, done):
            yield from persons(text, match.end(), done, alone=bool(match["single"]))


def persons(text: str, at: int, end: int, alone: bool) -> Iterator[Span]:
    """The names listed from an offset on; alone: a single word will do."""
    while at < end:
        while at < end and text[at] in " \t\"'`[(*":
            at += 1
        match = PERSON.match(text, at, end)
        if not match:
            return
        name = trimmed(match[0])
        if not is_name(name, alone and text[match.end() : match.end() + 1] not in ("(", ":")):  # no call, no URL
            return
        yield Span(at, at + len(name), NAME)
        at += len(name)
        rest = AFTER_NAME.match(text, at, end)
        separator = BETWEEN.match(text, rest.end() if rest else at, end)
        if not separator:
            return
        at = separator.end()


def trimmed(words_: str) -> str:
    """The words up to the first that no name has at that place ("Jane Doe on", "Jane Doe and")."""
    kept: list[str] = []
    for word in words_.split(" "):
        if not (word[0].isupper() or word in words("particles")) and kept:
            break
        kept.append(word)
    while len(kept) > 1 and kept[-1] in words("particles"):
        kept.pop()
    return " ".join(kept).rstrip(".,'’-") if len(kept[-1]) > 2 else " ".join(kept)


def is_name(name: str, alone: bool) -> bool:
    """Whether words have the form of a person's name."""
    parts = name.split(" ")
    if any(part.lower().strip(".") in words("no_names") for part in parts):
        return False
    if len(parts) == 1:
        return alone and len(name) > 2 and "." not in name
    capital = [part for part in parts if part[0].isupper()]
    return len(capital) >= 2 and any(len(part) > 2 and not part.isupper() for part in capital)


# --- replacements


def replacement(kind: str, value: str, number: int) -> str | None:
    """What stands for the n-th value of its kind in a text; None for secrets.

    Addresses come from the ranges for documentation (RFC 2606, RFC 5737, RFC 3849), then from 240.0.0.0/4, which is reserved.
    """
    if kind == EMAIL:
        return f"user{number}@example.com"
    if kind == NAME:
        return f"Author {number}"
    if kind != IP_ADDRESS:
        return None
    if ":" in value:
        return f"2001:db8::{number:x}"
    if number <= 254:
        return f"192.0.2.{number}"
    return str(ipaddress.ip_address("240.0.0.0") + number)


# --- what must stay

LICENSE_WORDS = re.compile(
    r"(?i)copyright|©|\(c\)\s*(?:19|20)\d\d|spdx-|all rights reserved|public domain|redistribution|hereby granted"
    r"|licen[cs]ed (?:under|to)|licen[cs]es?\W{0,3}:"
    r"|(?:MIT|BSD|ISC|Apache|Mozilla|General Public|[AL]?GPL|PSF|this|the)[\w .-]{0,20} licen[cs]e"
)
NOTICE = re.compile(r"(?i)copyright|©|\(c\)\s*(?:19|20)\d\d|all rights reserved")
BEFORE_HEADER = re.compile(
    r"\ufeff?(?:#![^\n]*\n)?(?:\s*(?:<\?(?:php|xml)[^\n>]*>?|<!DOCTYPE[^\n>]*>|['\"]use strict['\"];?))?"
)
COMMENT = re.compile(
    r"\s*(?:/\*.*?\*/|<!--.*?-->|\{-.*?-\}|\(\*.*?\*\)|[rRuUbB]{0,2}\"{3}.*?\"{3}|[rRuUbB]{0,2}'''.*?'''"
    r"|(?:[ \t]*(?:#|//|--|;|%|[\"'](?=\s)|\.\.|!|dnl\b|REM\b)[^\n]*(?:\n|\Z))+)",
    re.DOTALL,
)
HEADER_CHARS = 60_000
"""Comments after this many characters are no header any more."""


class Attribution:
    """The notices of a text, which its licence forbids to change: the header, and every line that speaks of copyright."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def header(self) -> tuple[int, int]:
        """From the first to the last comment at the top that speaks of the licence; (0, 0) if none does."""
        begin = end = 0
        match = BEFORE_HEADER.match(self.text)
        at = match.end() if match else 0
        while at < HEADER_CHARS and (match := COMMENT.match(self.text, at, HEADER_CHARS)):
            if LICENSE_WORDS.search(self.text, at, match.end()):
                begin, end = begin if end else at, match.end()
            at = match.end()
        return begin, end

    def holds(self, start: int, end: int) -> bool:
        """Whether a span stands in a notice."""
        if start < self.header[1] and end > self.header[0]:
            return True
        line_start = self.text.rfind("\n", max(start - LONGEST_LINE, 0), start) + 1 or max(start - LONGEST_LINE, 0)
        line_end = self.text.find("\n", end, end + LONGEST_LINE)
        return bool(NOTICE.search(self.text, line_start, line_end if line_end >= 0 else end + LONGEST_LINE))
