"""How many lines a completion may have: decided before it is written, from what stands around the cursor."""

from serving.languages import Language, language_of
from serving.lexer import LINE_COMMENT, Surroundings
from serving.request import CompletionRequest, TriggerKind
from serving.scope import indentation, line_before

ENDS = ";,:"
"""What may stand after closing brackets that an editor put after the cursor."""


def allowed_lines(request: CompletionRequest) -> int | None:
    """One, or `request.max_lines` where several lines belong: in a block without a body, or anywhere when asked for.

    What follows the cursor on its line leaves room for one line, unless it only closes the block that is to be filled.
    None as the request's limit turns off the rules that look at lines.
    """
    limit = request.max_lines
    if limit is None or limit <= 1:
        return limit
    language = language_of(request.language, request.path)
    before = line_before(request.prefix)
    after, _, below = request.suffix.partition("\n")
    if after.strip():
        return limit if closes_block(before, after, language) else 1
    if one_line_mode(Surroundings(request.prefix, request.suffix, language).mode, language):
        return 1
    if request.trigger is TriggerKind.INVOKED:
        return limit
    return limit if opens_body(request.prefix, below, language) else 1


def closes_block(before: str, after: str, language: Language) -> bool:
    """Whether the cursor is between an opening bracket and its closer, and nothing else follows: `f() {|});`."""
    opener = before.rstrip()[-1:]
    after = after.strip()
    return language.pairs.get(opener) == after[0] and not after.strip(language.brackets + ENDS)


def one_line_mode(mode: str | None, language: Language) -> bool:
    """Whether the cursor is in a string or comment that ends with its line."""
    return mode == LINE_COMMENT or (mode is not None and not language.strings[mode].multi_line)


def opens_body(prefix: str, below: str, language: Language) -> bool:
    """Whether the last line with text begins a block, and the text below the cursor's line does not fill it."""
    head = prefix.rstrip()
    line = head[head.rfind("\n") + 1 :]
    if not language.begins_block(line):
        return False
    next_line = next((line for line in below.split("\n", 8)[:8] if line.strip()), "")
    return indentation(next_line) <= indentation(line)
