"""The prompt of a request: which part of the project and of the text around the cursor the model sees, so that typing only
appends.

The prompt begins with what changes least: chunks of other files (if the model knows repositories), then the suffix (SPM
order), which stays while the text after the cursor stays. The prefix window begins at a line that changes only every few
dozen lines. So from one keystroke to the next nearly all of the prompt is the beginning of the last one, and the engine does
not read it again.
"""

from collections.abc import Callable
from typing import NamedTuple

from codelm import fim

Encode = Callable[[str], list[int]]
"""Text → token ids, without special tokens, whatever the text holds."""

LINE_STEP = 32
REPOSITORY_SHARE = 4
"""One part in so many of the budget is for other files of the repository, at most."""
SUFFIX_SHARE = 4
"""One part in so many of the budget is for the suffix; what both leave is the prefix's."""
LINE_SHARE = 8
"""One part in so many of the prefix's limit is kept for the line with the cursor, whatever it holds: its token count goes
up and down while a word is typed, and the window's start must not."""
CHARS_PER_TOKEN = 16
"""More than code ever has on average; bounds the work on huge texts, whose far ends are not looked at."""


class Repository(NamedTuple):
    """What a prompt says of the open file's repository.

    files: (path, text) of other files or runs of their lines, the ones that stay longest first. path: of the open file.
    longest_name: tokens of a name (`fim.longest_name`).
    """

    name: str
    files: tuple[tuple[str, str], ...]
    path: str
    longest_name: int

    def ids(self, tokens: fim.FimTokens, encode: Encode) -> list[int]:
        """What stands before the prompt of the open file."""
        return fim.repository(tokens, encode, self.name, self.files, self.path, self.longest_name)


def build(
    tokens: fim.FimTokens,
    order: fim.Order,
    encode: Encode,
    prefix: str,
    suffix: str,
    budget: int,
    repository: Repository | None = None,
) -> list[int]:
    """The token ids of the prompt, at most `budget` of them.

    prefix, suffix: the whole text before and after the cursor. budget: the context less the tokens to be written.
    repository: only for models that know it; the last of its files are left out where there is no room for them.
    """
    room = budget - len(fim.prompt(tokens, order, (), ()))
    if room < SUFFIX_SHARE:
        raise ValueError(f"a budget of {budget} tokens leaves no room for text")
    front = repository_window(tokens, encode, repository, repository_budget(budget)) if repository else []
    suffix_ids = suffix_window(encode, suffix, room // SUFFIX_SHARE)
    prefix_ids = prefix_window(encode, prefix, room - len(front) - len(suffix_ids))
    return front + fim.prompt(tokens, order, prefix_ids, suffix_ids)


def repository_budget(budget: int) -> int:
    """The tokens of a prompt that are for the repository at most."""
    return budget // REPOSITORY_SHARE


def repository_window(tokens: fim.FimTokens, encode: Encode, repository: Repository, limit: int) -> list[int]:
    """The first files of a repository that fit, with the names; nothing if not even these do."""
    for count in range(len(repository.files), -1, -1):
        ids = repository._replace(files=repository.files[:count]).ids(tokens, encode)
        if len(ids) <= limit:
            return ids
    return []


def suffix_window(encode: Encode, suffix: str, limit: int) -> list[int]:
    """The first `limit` tokens after the cursor."""
    return encode(suffix[: limit * CHARS_PER_TOKEN])[:limit]


def prefix_window(encode: Encode, prefix: str, limit: int) -> list[int]:
    """The tokens from a slowly moving line to the cursor, at most `limit`.

    All of the prefix if it fits, with room for the line with the cursor to grow. Else, of the lines from which it fits
    and fills at least half the limit, the first one whose number has the most factors of two, up to LINE_STEP: it stays
    the choice for as long as it fits or nearly so.
    If there is none, a line is too long for the limit and is cut between tokens, again in steps.
    """
    start = steps_over(len(prefix), limit * CHARS_PER_TOKEN)
    lines = keep_newlines(prefix[start:])
    first_number = prefix.count("\n", 0, start)
    index = len(lines) - 1
    used = max(len(encode(lines[index])), limit // LINE_SHARE)
    best, best_alignment = None, 0
    while used <= limit:
        whole_line = index > 0 or start == 0
        if whole_line and (used * 2 >= limit or index == 0):
            alignment = line_alignment(first_number + index)
            if alignment >= best_alignment:  # walking backwards, so the first of equals wins
                best, best_alignment = index, alignment
        if index == 0:
            break
        index -= 1
        used += len(encode(lines[index]))
    ids = encode("".join(lines[index if best is None else best :]))
    return ids[steps_over(len(ids), limit) :]


def steps_over(length: int, limit: int) -> int:
    """How much to leave out in front so that no more than `limit` is left: a multiple of a quarter of it."""
    step = max(1, limit // 4)
    return -((limit - length) // step) * step if length > limit else 0


def line_alignment(number: int) -> int:
    """The greatest power of two that divides a line's number, at most LINE_STEP."""
    return min(number & -number, LINE_STEP) if number else LINE_STEP


def keep_newlines(text: str) -> list[str]:
    """The lines of a text, each with its newline; other separators than "\\n" are text."""
    *lines, last = text.split("\n")
    return [*(line + "\n" for line in lines), last]
