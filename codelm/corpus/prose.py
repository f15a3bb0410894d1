"""Which tokens of a file are comments and docstrings: by the language's grammar, or, without one, by the marks around them."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from tree_sitter import Language, Query, QueryCursor

from codelm.corpus.parse import parsed_steadily, parser_of

DATA = Path(__file__).parent / "data"
COMMENT_NODES = ("comment", "line_comment", "block_comment", "html_comment")
"""What grammars call a comment."""
DOCSTRING = "(expression_statement . (string) @prose .)"
"""In Python, a string that is a whole statement."""


def prose_tokens(data: bytes, language: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which tokens of a text in UTF-8 stand in its comments and docstrings, by half of their bytes, (tokens,).

    lengths: bytes of each token, in order; their sum is that of the text.
    """
    spans = prose_spans(data, language)
    changes = np.zeros(len(data) + 1, dtype=np.int8)
    np.add.at(changes, spans[:, 0], 1)
    np.add.at(changes, spans[:, 1], -1)
    return by_half(np.cumsum(changes[:-1], dtype=np.int8) > 0, lengths)


def by_half(inside: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Of which tokens at least half of the bytes are inside; none of a token without bytes is. inside: (bytes,)."""
    before = np.concatenate([[0], np.cumsum(inside)])
    ends = np.cumsum(lengths)
    return (2 * (before[ends] - before[ends - lengths]) >= lengths) & (lengths > 0)


def prose_spans(data: bytes, language: str) -> npt.NDArray[np.int64]:
    """Begin and end of each comment and docstring of a text, in bytes, in order, (spans, 2)."""
    spans = spans_of_tree(data, language)
    if spans is None:
        pattern = marks().get(language)
        spans = [match.span() for match in pattern.finditer(data) if match.lastgroup] if pattern else []
    return np.array(sorted(spans), dtype=np.int64).reshape(-1, 2)


def spans_of_tree(data: bytes, language: str) -> list[tuple[int, int]] | None:
    """The spans by the language's grammar; None if there is none, or if it finds no end."""
    takes = parser_of(language)
    tree = parsed_steadily(takes, data) if takes else None
    if takes is None or takes.language is None or tree is None:
        return None
    found = QueryCursor(query(takes.language, language)).captures(tree.root_node)
    return [(node.start_byte, node.end_byte) for node in found.get("prose", ())]


@cache
def query(grammar: Language, language: str) -> Query:
    """What finds the comments and docstrings of a language in its trees."""
    known = [name for name in COMMENT_NODES if grammar.id_for_node_kind(name, True)]
    comments = f"[{' '.join(f'({name})' for name in known)}] @prose"
    return Query(grammar, f"{comments} {DOCSTRING}" if language == "Python" else comments)


@cache
def marks() -> dict[str, re.Pattern[bytes]]:
    """Language → what matches its strings and, in the group "prose", its comments."""
    families = yaml.safe_load((DATA / "comments.yaml").read_text(encoding="utf-8")).values()
    return {
        language: re.compile("|".join([*family["code"], f"(?P<prose>{'|'.join(family['comment'])})"]).encode())
        for family in families
        for language in family["languages"]
    }
