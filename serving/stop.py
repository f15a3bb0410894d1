"""Where a completion ends: pure functions of the text so far, and the growing text they are applied to.

The rules look at newlines, given strings, indentation and, where a block ends, at what the language writes there.
"""

import codecs
from dataclasses import dataclass

from serving.lines import allowed_lines
from serving.request import CompletionRequest, StopReason, TriggerKind
from serving.scope import ANYWHERE, Block, line_before, scope_end

MAX_LINES = {TriggerKind.AUTOMATIC: 4, TriggerKind.INVOKED: 8}
"""How many lines to write at most when the client does not say; most places leave room for one."""


@dataclass(frozen=True)
class StopRules:
    """before: the cursor's line up to the cursor. max_lines: None turns off the line rules. block: where the cursor is."""

    before: str
    max_lines: int | None
    stop: tuple[str, ...] = ()
    block: Block = ANYWHERE

    @classmethod
    def of(cls, request: CompletionRequest) -> "StopRules":
        """The rules for a request."""
        before = line_before(request.prefix)
        max_lines = allowed_lines(request)
        block = Block.of(request) if max_lines is not None and max_lines > 1 else ANYWHERE
        return cls(before, max_lines, tuple(filter(None, request.stop)), block)

    @property
    def multi_line(self) -> bool:
        return self.max_lines is not None and self.max_lines > 1

    def find(self, text: str) -> tuple[int, StopReason] | None:
        """The first place where one of the rules ends `text`, as an index into it, and the reason."""
        found = [(at, StopReason.STOP) for stop in self.stop if (at := text.find(stop)) >= 0]
        if (line := line_end(text, self.max_lines)) is not None:
            found.append((line, StopReason.LINE))
        if self.multi_line and (scope := scope_end(self.before, text, self.block)) is not None:
            found.append((scope, StopReason.SCOPE))
        return min(found, key=lambda cut: cut[0], default=None)

    def settled(self, text: str) -> int:
        """How many characters of an unfinished `text` no rule can take back: what may be streamed."""
        end = len(text) - max((overlap(text, stop) for stop in self.stop), default=0)
        lines, newline, _ = text.rpartition("\n")
        if newline and self.multi_line:  # the last line may yet end the scope before it and its blanks, or be cut off
            end = min(end, len(lines.rstrip()))
        return end

    def whole_lines(self, text: str) -> str:
        """What is worth keeping of a text that time or length cut off: its complete lines, or all of an only line."""
        head, newline, _ = text.rpartition("\n")
        return head if newline and self.multi_line else text


def line_end(text: str, max_lines: int | None) -> int | None:
    """Where the newline stands that ends the last allowed line."""
    if max_lines is None:
        return None
    at = -1
    for _ in range(max_lines):
        at = text.find("\n", at + 1)
        if at < 0:
            return None
    return at


def overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` begin `stop` without completing it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class GrowingText:
    """The text of one completion, token by token; it holds whole characters only and never grows past a stop."""

    def __init__(self, rules: StopRules) -> None:
        self.rules = rules
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def append(self, piece: bytes) -> StopReason | None:
        """Adds a token's bytes; the reason if the text ends here. Bytes that are not UTF-8 end it: never right."""
        broken = False
        try:
            grown = self.text + self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            broken = True
            grown = self.text + error.object[: error.start].decode()
        if self.rules.find(grown):
            # which rule was first must not depend on how much of the text a token holds
            for length in range(len(self.text) + 1, len(grown) + 1):
                if stop := self.rules.find(grown[:length]):
                    self.text = grown[: stop[0]]
                    return stop[1]
        self.text = grown
        return StopReason.EOS if broken else None

    @property
    def settled(self) -> str:
        """The beginning of the text that will stay."""
        return self.text[: self.rules.settled(self.text)]

    def cut_off(self) -> None:
        """Keeps what is worth keeping when time or length ends the text."""
        self.text = self.rules.whole_lines(self.text)
