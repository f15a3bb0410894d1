"""Keystroke traces from edits: what a user's hands do, from (old text, new text) pairs, as a function of the seed.

A trace replays to the new texts exactly. On the way there it has what an editor sees and a text comparison does not: bursts
and pauses, typing errors taken back, brackets that close themselves and are typed over, indentation that comes with a new
line, blocks deleted at once, jumps to another place and switches to another file.
"""

import difflib
import random
import subprocess
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

CLOSERS = {"(": ")", "[": "]", "{": "}"}
TYPING_ERRORS = 0.01
"""Of the letters typed."""
SHORT = 8
"""Characters that one takes back one by one; more are selected and deleted."""
CODE = (".py", ".js", ".ts", ".tsx", ".java", ".go", ".rs", ".c", ".h", ".cc", ".cpp", ".hpp", ".sh")
MAX_TEXT = 200_000
"""Characters of a file."""


class Kind(StrEnum):
    """What a step is to an editor."""

    TYPE = "type"
    ERASE = "erase"
    JUMP = "jump"
    """The cursor moves to another place of the file, or to another file."""


class Change(NamedTuple):
    """A file before and after somebody worked on it."""

    path: str
    old: str
    new: str


class Step(NamedTuple):
    """One key, click or command: `removed` characters from `start` on give way to `inserted`, then the cursor is at `cursor`.

    wait: seconds since the step before. Positions count characters of the file's text.
    """

    kind: Kind
    wait: float
    path: str
    start: int
    removed: int
    inserted: str
    cursor: int

    def apply(self, text: str) -> str:
        """The file's text afterwards."""
        return text[: self.start] + self.inserted + text[self.start + self.removed :]


class Trace(NamedTuple):
    """Texts by path, and what is done to them in turn."""

    texts: dict[str, str]
    steps: list[Step]

    def replay(self) -> Iterator[tuple[Step, str]]:
        """Each step with the text of its file afterwards."""
        texts = dict(self.texts)
        for step in self.steps:
            texts[step.path] = step.apply(texts[step.path])
            yield step, texts[step.path]


class Hunk(NamedTuple):
    """Characters of an old text that give way to others."""

    start: int
    removed: str
    inserted: str


def make_trace(changes: Sequence[Change], seed: int, keys_per_second: float = 5.0) -> Trace:
    """The steps from the old texts to the new ones. Paths must differ from one another.

    Hunks come in an order that is mostly the file's own, files in turn at random.
    """
    hands = Hands(random.Random(f"trace {seed}"), keys_per_second)
    left = {change.path: hunks(change.old, change.new) for change in changes}
    shift: dict[str, list[tuple[int, int]]] = {change.path: [] for change in changes}
    path = None
    while left := {name: rest for name, rest in left.items() if rest}:
        if path not in left or hands.random.random() < 0.3:
            path = hands.random.choice(sorted(left))
        hunk = left[path].pop(0 if hands.random.random() < 0.8 else hands.random.randrange(len(left[path])))
        moved = sum(grown for start, grown in shift[path] if start <= hunk.start)
        hands.edit(path, hunk._replace(start=hunk.start + moved))
        shift[path].append((hunk.start, len(hunk.inserted) - len(hunk.removed)))
    return Trace({change.path: change.old for change in changes}, hands.steps)


def hunks(old: str, new: str) -> list[Hunk]:
    """What differs, by lines and then by what a hunk's two sides do not share at their ends."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    starts = [0]
    for line in before:
        starts.append(starts[-1] + len(line))
    found = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        removed, inserted = "".join(before[i:j]), "".join(after[k:m])
        front = shared(removed, inserted)
        back = shared(removed[front:][::-1], inserted[front:][::-1])
        kept = slice(front, -back or None)
        found.append(Hunk(starts[i] + front, removed[kept], inserted[kept]))
    return found


def shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


class Hands:
    """Turns hunks into steps."""

    def __init__(self, source: random.Random, keys_per_second: float) -> None:
        self.random = source
        self.seconds = 1 / keys_per_second
        self.steps: list[Step] = []
        self._place: tuple[str, int] | None = None

    def edit(self, path: str, hunk: Hunk) -> None:
        """Goes to a place, takes away what is to go, and types what is to come."""
        self._path = path
        behind = hunk.start + len(hunk.removed)
        if self._place != (path, behind):
            self._step(Kind.JUMP, self.random.uniform(5, 15), behind, 0, "", behind)
        if 0 < len(hunk.removed) <= SHORT:
            self._erase(behind, len(hunk.removed))
        elif hunk.removed:
            self._step(Kind.ERASE, 4, hunk.start, len(hunk.removed), "", hunk.start)
        self._type(hunk.start, hunk.inserted)
        self._place = path, hunk.start + len(hunk.inserted)

    def _type(self, at: int, text: str) -> None:
        closed_at = matching_brackets(text)
        waiting: list[int] = []  # where in the text the closers stand that the editor has put behind the cursor
        done = 0
        while done < len(text):
            key = text[done]
            if waiting and waiting[-1] == done:
                waiting.pop()
                self._key(key, at, "", at + 1)
            elif done in closed_at:
                waiting.append(closed_at[done])
                self._key(key, at, key + CLOSERS[key], at + 1)
            elif key == "\n":
                indentation = indentation_after(text[:done])
                self._key(key, at, key + indentation, at + 1 + len(indentation))
                rest = text[done + 1 :]
                wanted = rest[: len(rest) - len(rest.lstrip(" \t"))]
                kept = shared(indentation, wanted)
                if kept < len(indentation):
                    surplus = len(indentation) - kept
                    self._step(Kind.ERASE, 1, at + 1 + kept, surplus, "", at + 1 + kept)
                at, done = at + kept, done + kept
            else:
                if key.isalpha() and self.random.random() < TYPING_ERRORS:
                    self._mistake(at)
                self._key(key, at, key, at + 1)
            at, done = at + 1, done + 1

    def _mistake(self, at: int) -> None:
        wrong = "".join(self.random.choices("etaoinsrhl", k=self.random.randint(1, 3)))
        for offset, letter in enumerate(wrong):
            self._key(letter, at + offset, letter, at + offset + 1)
        self._erase(at + len(wrong), len(wrong))

    def _erase(self, end: int, count: int) -> None:
        for cursor in range(end - 1, end - 1 - count, -1):
            self._step(Kind.ERASE, 3 if cursor == end - 1 else 0.6, cursor, 1, "", cursor)

    def _key(self, key: str, start: int, inserted: str, cursor: int) -> None:
        pause = self.random.lognormvariate(-0.35, 0.5)  # times the mean interval; with the pauses below about 1 on the whole
        if key == "\n":
            pause += self.random.uniform(1, 4)
        elif not key.isalnum() and self.random.random() < 0.08:
            pause += self.random.uniform(2, 10)
        self._step(Kind.TYPE, pause, start, 0, inserted, cursor)

    def _step(self, kind: Kind, intervals: float, start: int, removed: int, inserted: str, cursor: int) -> None:
        wait = round(intervals * self.seconds, 4)
        self.steps.append(Step(kind, wait, self._path, start, removed, inserted, cursor))


def matching_brackets(text: str) -> dict[int, int]:
    """Where each opening bracket of a text is closed in it; none of a text whose brackets cross."""
    found, opened = {}, []
    for at, character in enumerate(text):
        if character in CLOSERS:
            opened.append(at)
        elif character in CLOSERS.values() and opened:
            if CLOSERS[text[opened[-1]]] != character:
                return {}
            found[opened.pop()] = at
    return found


def indentation_after(text: str) -> str:
    """What an editor puts at the beginning of the line after a text: the last line's indentation, one step more in a block."""
    line = text.rpartition("\n")[2]
    indentation = line[: len(line) - len(line.lstrip(" \t"))]
    opens = line.rstrip().endswith((":", *CLOSERS))
    return indentation + ("\t" if indentation.endswith("\t") else "    ") * opens


def retyped(path: str, text: str, seed: int, blocks: int = 2, max_lines: int = 12) -> Change:
    """The change that writes some blocks of a text anew: the old text lacks them.

    A block is a line that is not blank and what follows it with at least its indentation.
    """
    source = random.Random(f"blocks {seed}")
    lines = text.splitlines(keepends=True)
    gone: set[int] = set()
    for first in source.sample(range(len(lines)), min(blocks, len(lines))):
        depth = len(lines[first]) - len(lines[first].lstrip())
        for number in range(first, min(first + max_lines, len(lines))):
            line = lines[number]
            if line.strip() and len(line) - len(line.lstrip()) < depth:
                break
            gone.add(number)
    return Change(path, "".join(line for number, line in enumerate(lines) if number not in gone), text)


def folder_changes(folder: Path, seed: int, count: int, files: int = 2) -> list[list[Change]]:
    """Work on the code in a folder that has no history: `count` times some of its files, with blocks to type anew."""
    source = random.Random(f"files {seed}")
    texts = {path.relative_to(folder).as_posix(): text for path in sorted(folder.rglob("*")) if (text := code_of(path))}
    names = sorted(texts)
    picked = (source.sample(names, min(files, len(names))) for _ in range(count))
    return [[retyped(name, texts[name], source.randrange(2**32)) for name in some] for some in picked]


def code_of(path: Path) -> str | None:
    """The text of a file of code, of a size that people edit."""
    if path.suffix not in CODE or not path.is_file() or not 2_000 < path.stat().st_size < MAX_TEXT:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def git_changes(repository: Path, count: int) -> list[list[Change]]:
    """The latest commits of a repository that change code by hand: each 10 to 2,000 characters of it, in at most 8 files."""
    found: list[list[Change]] = []
    for commit in git(repository, "rev-list", "--no-merges", "--min-parents=1", "HEAD").split():
        if len(found) == count:
            break
        names = git(repository, "diff", "--name-only", "--no-renames", "--diff-filter=M", "-z", f"{commit}^", commit)
        paths = [name for name in names.split("\0") if name.endswith(CODE)]
        if not 1 <= len(paths) <= 8:
            continue
        try:
            changes = [Change(p, *(git(repository, "show", f"{at}:{p}") for at in (f"{commit}^", commit))) for p in paths]
        except UnicodeDecodeError:
            continue
        typed = sum(len(hunk.inserted) for change in changes for hunk in hunks(change.old, change.new))
        if 10 <= typed <= 2_000 and all(len(change.new) < MAX_TEXT for change in changes):
            found.append(changes)
    return found


def git(repository: Path, *arguments: str) -> str:
    """What git says, byte for byte."""
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()
