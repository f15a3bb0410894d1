"""Where the scope of a completion ends: by indentation, and by what a language writes at the end of a block."""

import re
from dataclasses import dataclass

from serving.languages import Language, language_of
from serving.lexer import LINE_LIMIT, Surroundings
from serving.request import CompletionRequest

TAB_WIDTH = 4
LINES_UP = 200
"""How far above the cursor the head of its block is looked for."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Block:
    """The block that the cursor is in.

    head: the indentation of the line that begins it; None at the top level. closes: whether the file lacks closing
    brackets, so that the completion may write the block's. continued: whether the file goes on with `else` and the like.
    """

    language: Language
    head: int | None = None
    closes: bool = False
    continued: bool = False

    @classmethod
    def of(cls, request: CompletionRequest) -> "Block":
        language = language_of(request.language, request.path)
        above = request.prefix.rpartition("\n")[0]
        cursor = indentation(line_before(request.prefix))
        indents = (indentation(line) for line in reversed(last_lines(above, LINES_UP)) if line.strip())
        below = next((line for line in request.suffix.partition("\n")[2].split("\n", 8)[:8] if line.strip()), "")
        return cls(
            language=language,
            head=next((columns for columns in indents if columns < cursor), None),
            closes=bool(Surroundings(request.prefix, request.suffix, language).of("").opens),
            continued=first_word(below) in language.continues,
        )


ANYWHERE = Block(language_of(None, None))
"""What is true of every block of every language."""


def scope_end(before: str, text: str, block: Block = ANYWHERE) -> int | None:
    """The end of the last non-blank line before the first one outside of the scope that the text is in.

    before: the cursor's line up to it. If something stands there and, with the text's first line, begins a block, the scope
    is that block, else what is indented as much as that line. A line that closes the block's bracket is its last; `else`
    and the like go on with it.
    """
    language = block.language
    first, *rest = text.split("\n")
    line = before + first
    own, decorated, floor, head = False, language.decorates(line), indentation(line), block.head
    if before.strip() and language.begins_block(line):
        own, floor, head = True, floor + 1, floor
    closed = False
    at = end = len(first)
    for number, line in enumerate(rest):
        at += 1 + len(line)
        if not line.strip():
            continue
        growing = number == len(rest) - 1
        columns = indentation(line)
        if closed or columns < floor:
            if columns != head:
                return end
            if line.lstrip()[0] in ")]}" and not closed:
                if not (own or block.closes):
                    return end
                closed = not growing and not language.begins_block(line)
                if closed and "else" not in language.continues:
                    return at
            elif block.continued or not goes_on(line.strip(), language, growing):
                return end
            else:
                closed = False
        elif decorated and not language.decorates(line):
            decorated = False
            if language.begins_block(line):
                own, floor, head = True, columns + 1, columns
        end = at
    return None


def goes_on(line: str, language: Language, growing: bool) -> bool:
    """Whether a line begins with a word like `else`, or may do so once it has grown."""
    word = first_word(line)
    if growing and word == line:
        return any(known.startswith(word) for known in language.continues)
    return word in language.continues


def first_word(line: str) -> str:
    """The word that a line begins with, or ""."""
    found = WORD.match(line.lstrip())
    return found[0] if found else ""


def line_before(prefix: str) -> str:
    """The cursor's line up to it; of a very long one its indentation and its end."""
    start = prefix.rfind("\n") + 1
    if len(prefix) - start <= LINE_LIMIT:
        return prefix[start:]
    head = prefix[start : start + LINE_LIMIT]
    return head[: len(head) - len(head.lstrip())] + prefix[-LINE_LIMIT:]


def last_lines(text: str, count: int) -> list[str]:
    """The text's last lines, at most `count`."""
    return text.rsplit("\n", count)[-count:]


def indentation(line: str) -> int:
    """Columns of blanks before the line's text; all of them in a blank line."""
    expanded = line.expandtabs(TAB_WIDTH)
    return len(expanded) - len(expanded.lstrip())
