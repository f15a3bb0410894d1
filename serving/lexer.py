"""Brackets, strings and comments of a text, by a language's rules and nothing more: what does not parse has them too.

A text's brackets come down to what it closes of the text before it and what it leaves open for the text after it. Such
balances add up, so a long file is read in chunks whose balances are remembered: a keystroke costs one chunk.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from serving.languages import Language
from serving.prompt import steps_over

CHUNK = 4096
"""Characters to read at once, up to the next line's end."""
LINE_LIMIT = 2048
"""Characters of the line with the cursor that are looked at on each side."""
REACH = 1 << 15
"""Characters on each side of the cursor that are read at all: two milliseconds, the first time."""
DEPTH = 512
"""Brackets without partner that a text is held to have, on either side: more are data."""
LINE_COMMENT = "\n"
"""The mode of a text that ends in a comment which the next newline ends."""


class Bracket(NamedTuple):
    """A bracket that counts, and where it stands."""

    at: int
    text: str


class Scan(NamedTuple):
    """What was found in a text. mode: what opened the string or comment that it ends in."""

    brackets: tuple[Bracket, ...]
    mode: str | None


class Balance(NamedTuple):
    """What a text does to brackets.

    closes: its closers that close nothing of it. opens: its openers that it leaves open. mode: as in Scan.
    lost: how many openers were still open when a bracket around them was closed.
    """

    closes: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    mode: str | None = None
    lost: int = 0

    def then(self, after: "Balance", pairs: dict[str, str]) -> "Balance":
        """The balance of this text and the next one, which was read from this one's mode on."""
        closes, opens, lost = list(self.closes), list(self.opens), self.lost + after.lost
        for closer in after.closes:
            lost += _close(closes, opens, closer, pairs)
        return Balance(tuple(closes[:DEPTH]), (*opens, *after.opens)[-DEPTH:], after.mode, lost)


def scan(text: str, language: Language, mode: str | None = None) -> Scan:
    """The brackets of a text outside of strings and comments. mode: of the text before it."""
    found: list[Bracket] = []
    at = 0
    while True:
        if mode is not None:
            end = _mode_end(text, at, language, mode)
            if end < 0:
                return Scan(tuple(found), mode)
            at, mode = end, None
        mark = language.marks.search(text, at)
        if mark is None:
            return Scan(tuple(found), None)
        at = mark.end()
        if mark.lastgroup == "bracket":
            found.append(Bracket(mark.start(), mark[0]))
        elif mark.lastgroup != "atom":
            mode = mark[0] if mark.lastgroup == "string" else LINE_COMMENT


def _mode_end(text: str, at: int, language: Language, mode: str) -> int:
    """Where a string or comment ends that holds the place `at`; -1 if it holds the rest."""
    if mode == LINE_COMMENT:
        return text.find("\n", at)
    for end in language.strings[mode].end.finditer(text, at):
        if not end[0].startswith("\\"):  # an escape
            return end.start() if end[0] == "\n" else end.end()
    return -1


@lru_cache(maxsize=1024)
def balance(text: str, language: Language, mode: str | None) -> Balance:
    """The balance of a text that begins in a mode."""
    brackets, ends_in = scan(text, language, mode)
    pairs = language.pairs
    closes: list[str] = []
    opens: list[str] = []
    lost = 0
    for _, bracket in brackets:
        if bracket in pairs:
            opens.append(bracket)
        else:
            lost += _close(closes, opens, bracket, pairs)
    return Balance(tuple(closes[:DEPTH]), tuple(opens[-DEPTH:]), ends_in, lost)


def _close(closes: list[str], opens: list[str], closer: str, pairs: dict[str, str]) -> int:
    """Takes the innermost bracket of the closer's kind from `opens`, or adds the closer to `closes` if there is none.

    Returns how many brackets were still open inside.
    """
    for at in range(len(opens) - 1, -1, -1):
        if pairs[opens[at]] == closer:
            lost = len(opens) - at - 1
            del opens[at:]
            return lost
    closes.append(closer)
    return 0


def chunks(text: str) -> list[str]:
    """The text in pieces of whole lines, of which all but the last stay as they are while the text's end moves."""
    starts = [0]
    while (start := text.find("\n", starts[-1] + CHUNK) + 1) and start < len(text):
        starts.append(start)
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def chunks_from_end(text: str) -> list[str]:
    """The text in pieces of whole lines, of which all but the first stay as they are while the text's beginning moves."""
    ends = [len(text)]
    while (end := text.rfind("\n", 0, max(0, ends[-1] - CHUNK)) + 1) > 0:
        ends.append(end)
    return [text[start:end] for start, end in itertools.pairwise([0, *reversed(ends)])]


@dataclass(frozen=True)
class Surroundings:
    """The brackets around a cursor, with and without a text at it."""

    prefix: str
    suffix: str
    language: Language

    @cached_property
    def _line_start(self) -> int:
        return self.prefix.rfind("\n") + 1

    @cached_property
    def _line_end(self) -> int:
        return self.suffix.find("\n") + 1 or len(self.suffix)

    @cached_property
    def _before(self) -> str:
        return self.prefix[self._line_start :][-LINE_LIMIT:]

    @cached_property
    def _after(self) -> str:
        return self.suffix[: self._line_end][:LINE_LIMIT]

    @cached_property
    def _head(self) -> Balance:
        start = steps_over(self._line_start, REACH)
        return self._sum(Balance(), chunks(self.prefix[start : self._line_start]))

    @cached_property
    def mode(self) -> str | None:
        """What opened the string or comment that the cursor is in."""
        return balance(self._before, self.language, self._head.mode).mode

    @cached_property
    def _tails(self) -> dict[str | None, Balance]:
        """The balances of the lines after the cursor's, by the mode that they begin in, as they come to be needed."""
        return {}

    def of(self, text: str) -> Balance:
        """The balance of the whole file with a text at the cursor."""
        pairs = self.language.pairs
        head = self._head.then(balance(self._before + text + self._after, self.language, self._head.mode), pairs)
        if head.mode not in self._tails:
            parts = chunks_from_end(self.suffix[self._line_end : self._line_end + REACH])
            self._tails[head.mode] = self._sum(Balance(mode=head.mode), parts)
        return head.then(self._tails[head.mode], pairs)

    def surplus(self, text: str) -> int:
        """Closers in the whole file that close nothing, with a text at the cursor."""
        return len(self.of(text).closes)

    def flaws(self, text: str) -> int:
        """Brackets in the whole file that lack their partner, and strings that lack their end."""
        whole = self.of(text)
        line = (self._before + text + self._after).removesuffix("\n")
        mode = balance(line, self.language, self._head.mode).mode
        open_string = mode in self.language.strings and not self.language.strings[mode].multi_line
        brackets = len(whole.closes) + len(whole.opens) + whole.lost
        return brackets + open_string + (whole.mode in self.language.strings)

    def _sum(self, total: Balance, parts: list[str]) -> Balance:
        for chunk in parts:
            total = total.then(balance(chunk, self.language, total.mode), self.language.pairs)
        return total
