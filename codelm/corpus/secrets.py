"""Keys, tokens and passwords in source code: finds them, replaces them."""

from typing import NamedTuple

from codelm.config.corpus import Redaction


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


def scan(text: str) -> list[Finding]:
    """The secrets of a text, in order, none over another."""
    raise NotImplementedError


def redact(text: str, config: Redaction) -> Redacted:
    """The text with its secrets and personal data replaced; the licence header stays as it is."""
    raise NotImplementedError
