"""Whether a language's parser takes a text: CPython's own for Python, tree-sitter grammars for others."""

import itertools
import platform
import symtable
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from tree_sitter import Language, Node, Parser, Tree

from codelm.config.corpus import Filters
from codelm.corpus.sources.base import Rejection


class Grammar(NamedTuple):
    """Where the tree-sitter grammar of a language is."""

    module: str
    function: str = "language"
    balanced: bool = True
    """whether brackets have to be closed in the text as it stands: a preprocessor may leave either side out"""


GRAMMARS = {
    "C": Grammar("tree_sitter_cpp", balanced=False),  # takes real headers better than C's own, by extern "C" and the like
    "C++": Grammar("tree_sitter_cpp", balanced=False),
    "Go": Grammar("tree_sitter_go"),
    "Java": Grammar("tree_sitter_java"),
    "JavaScript": Grammar("tree_sitter_javascript"),
    "Rust": Grammar("tree_sitter_rust"),
    "Shell": Grammar("tree_sitter_bash", balanced=False),  # case patterns
    "TypeScript": Grammar("tree_sitter_typescript", "language_typescript"),
}
TSX = Grammar("tree_sitter_typescript", "language_tsx")
PYTHON = Grammar("tree_sitter_python")
"""Of what reads texts that were taken already; whether a text is taken, CPython says."""
SMALL = 1024
"""Bytes: smaller files are judged as if they had so many, or one unknown macro would be too much for a short header."""
CHUNK = 1 << 14
SECONDS = 10.0
"""Of CPU time. Real files of a megabyte take less than a third of a second; a few made-up ones take hours."""
BYTES_PER_STEP = 20
"""A step is a hundred operations of a parser. Real files take a step for 200 bytes, broken pieces of them one for 80."""
OPENERS, CLOSERS = {"{", "(", "["}, {"}", ")", "]"}


@cache
def parser(grammar: Grammar) -> Parser | None:
    """The parser for a grammar, or None if it is not installed."""
    try:
        module = import_module(grammar.module)
    except ImportError:
        return None
    return Parser(Language(getattr(module, grammar.function)()))


def parser_of(language: str) -> Parser | None:
    """The parser for a language, Python included, or None if there is none."""
    grammar = PYTHON if language == "Python" else GRAMMARS.get(language)
    return parser(grammar) if grammar else None


def grammars() -> tuple[str, ...]:
    """The parsers that are here, with their versions: what is dropped depends on them."""
    found = [f"python {platform.python_version()}", f"tree-sitter {version('tree-sitter')}"]
    for module in sorted({grammar.module for grammar in GRAMMARS.values()}):
        name = module.replace("_", "-")
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)


def parse_rejection(text: str, data: bytes, language: str, filters: Filters) -> Rejection | None:
    """Whether a text is not in the language that it should be in; None also where no parser for it is installed.

    data: the text in UTF-8.
    """
    if not filters.parse:
        return None
    if language == "Python":
        error = python_error(text)
        return Rejection("syntax", error) if error else None
    grammar = GRAMMARS.get(language)
    if grammar is None or (takes := parser(grammar)) is None:
        return None
    understood = parsed(takes, data)
    if understood is None:
        return Rejection("syntax", f"not parsed in {SECONDS:.0f} s")
    found = misunderstood(understood.root_node)
    if grammar == GRAMMARS["TypeScript"] and (found.size or found.missing) and (takes := parser(TSX)):
        with_tags = parsed(takes, data)  # <T>x is a cast in one dialect and an element in the other
        found = min(found, misunderstood(with_tags.root_node)) if with_tags else found
    share = found.size / max(SMALL, len(data))
    if share > filters.max_error_share:
        return Rejection("syntax", f"{share:.0%} not understood")
    if grammar.balanced and found.unclosed > 0:
        return Rejection("syntax", "a bracket is never closed")
    return None


def python_error(text: str) -> str:
    """What the running Python has against a text, or "".

    The compiler up to its symbol table: it never makes the tree into objects, which takes ast.parse nearly half its time.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            symtable.symtable(text, "<file>", "exec")
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, OverflowError, RecursionError, MemoryError, UnicodeError) as error:
        return type(error).__name__ + (f": {error}" if str(error) else "")
    return ""


def parsed(takes: Parser, data: bytes) -> Tree | None:
    """The tree of a text, or None if it took too long."""
    began = time.process_time()
    return parsed_until(takes, data, lambda: time.process_time() - began > SECONDS)


def parsed_steadily(takes: Parser, data: bytes) -> Tree | None:
    """The tree of a text, or None if it took too many steps: unlike time, they are the same wherever it is parsed."""
    steps = itertools.count()
    most = 100 + len(data) // BYTES_PER_STEP
    return parsed_until(takes, data, lambda: next(steps) >= most)


def parsed_until(takes: Parser, data: bytes, enough: Callable[[], bool]) -> Tree | None:
    """The tree of a text, or None if `enough`, which is asked at every step, ends it."""
    try:
        return takes.parse(lambda offset, _: data[offset : offset + CHUNK], progress_callback=lambda _, __: enough())
    except ValueError:
        takes.reset()
        return None


class Misunderstood(NamedTuple):
    """What a grammar did not understand."""

    size: int
    """bytes"""
    missing: int
    """tokens that it put in"""
    unclosed: int
    """brackets opened more often than closed"""


def misunderstood(root: Node) -> Misunderstood:
    """The bytes of the tokens that stand right under an ERROR node.

    What is understood inside of it does not count: one macro that opens a brace makes all of a header one ERROR, in which
    every declaration is as it should be.
    """
    size = missing = unclosed = 0
    todo = [root] if root.has_error else []
    while todo:
        node = todo.pop()
        if node.is_missing:
            missing += 1
            unclosed += node.type in CLOSERS
            continue
        if node.is_error and node.child_count == 0:
            size += node.end_byte - node.start_byte
        for child in node.children:
            if child.has_error:
                todo.append(child)
            elif node.is_error and child.child_count == 0 and not child.is_extra:
                size += child.end_byte - child.start_byte
                unclosed += (child.type in OPENERS) - (child.type in CLOSERS)
    return Misunderstood(size, missing, unclosed)
