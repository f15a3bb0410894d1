"""A completion that breaks a file which was right before it is not shown. Needs tree-sitter and the language's grammar."""

from functools import cache
from importlib import import_module
from typing import Any

from serving.postprocess.place import Place
from serving.request import StopReason

MOST_CHARS = 1 << 15
"""Of a file that is parsed, which takes a millisecond for 4,000 or so."""
CUT_OFF = (StopReason.LENGTH, StopReason.DEADLINE)


def breaks(text: str, place: Place, reason: StopReason) -> bool:
    """Whether the file has no syntax error without the text and one with it.

    False where that tells nothing: the text was cut off, or it begins what the user goes on with (a block, a bracket, a
    string); the language has no grammar here, or the file is large.
    """
    prefix, suffix, language = place.request.prefix, place.request.suffix, place.language
    if language.grammar is None or reason in CUT_OFF or len(prefix) + len(suffix) > MOST_CHARS:
        return False
    last_line = place.lines_with(text)[-1]
    if language.begins_block(last_line) or language.decorates(last_line):
        return False
    if place.surroundings.flaws(text) > place.surroundings.flaws(""):
        return False
    parser = parser_of(*language.grammar)
    if parser is None or not has_error(parser, prefix + text + suffix):
        return False
    return not has_error(parser, prefix + suffix)


@cache
def parser_of(module: str, function: str) -> Any:
    """A tree_sitter.Parser, or None if it or the grammar is not installed."""
    try:
        from tree_sitter import Language, Parser

        return Parser(Language(getattr(import_module(module), function)()))
    except (ImportError, ValueError):  # a grammar of another version than the library
        return None


def has_error(parser: Any, text: str) -> bool:
    """Whether the parser does not understand all of a text."""
    return bool(parser.parse(text.encode("utf-8", "replace")).root_node.has_error)
