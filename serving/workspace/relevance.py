"""Which chunks of a project matter at a cursor, and which of them fit."""

import posixpath
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from codelm.corpus.languages import language_of_name
from codelm.corpus.order import FAMILY
from serving.request import RecentKind
from serving.workspace.chunks import Chunk, cut, head
from serving.workspace.identifiers import IDENTIFIER, declaration, terms, words
from serving.workspace.index import Index, Scores

Encode = Callable[[str], Sequence[int]]


class Source(StrEnum):
    """Why a chunk may matter."""

    IDENTIFIERS = "identifiers"
    IMPORTS = "imports"
    OPENED = "opened"
    EDITED = "edited"
    SIBLINGS = "siblings"


ALL = frozenset(Source)
BONUS = {Source.IMPORTS: 0.06, Source.EDITED: 0.06, Source.OPENED: 0.03, Source.SIBLINGS: 0.015}
"""What a chunk gets for its file, on the scale of one that holds the FULL heaviest terms of the query: about 1."""
FULL = 8
FADES = 0.8
"""Of what was opened or edited, each is worth so much of the one after it."""
OTHER_LANGUAGE = 0.25

LINES_BEFORE, LINES_AFTER = 48, 12
HALF_LIFE = 4
"""Lines from the cursor at which an identifier weighs half."""
DECLARES = 0.5
"""Weight of the place where an identifier is declared, besides that of the identifier."""
BEGUN, ENDED = re.compile(r"\w*\Z"), re.compile(r"\w*")

CANDIDATES = 96
"""Chunks of the best scores that are looked at."""
RANKED = 48
SAME_LINES = 0.5
"""Share of a chunk's lines that it may have in common with what is in the prompt already."""
SHORTEST_LINE = 4
"""Characters: shorter lines are brackets, and all alike."""

SMALL_BUDGET = 128
"""Tokens: with fewer, a chunk is shown by its head."""
TRIED = 16
"""Chunks that are encoded to see whether they fit."""


class Mention(NamedTuple):
    """Lines of a file that somebody opened or edited; end: excluded, None: to the end."""

    path: str
    kind: RecentKind
    start: int = 0
    end: int | None = None

    def meets(self, chunk: Chunk) -> bool:
        return chunk.end > self.start and (self.end is None or chunk.start < self.end)


@dataclass(frozen=True)
class Cursor:
    """A place in an open file, and what is known around it. Paths are below the root of the workspace.

    imports: the files that the open one imports. given: chunks that came with the request. replaced: files that came whole
    with it and are not looked for in the index. mentions: the latest first.
    """

    path: str
    prefix: str
    suffix: str
    imports: frozenset[str] = frozenset()
    given: tuple[Chunk, ...] = ()
    replaced: frozenset[str] = frozenset()
    mentions: tuple[Mention, ...] = ()


class Scored(NamedTuple):
    """A chunk, and how much it matters."""

    chunk: Chunk
    score: float


def rank(index: Index, cursor: Cursor, sources: Collection[Source] = ALL) -> list[Scored]:
    """The chunks that matter, the best first; none of the open file, of its lines, or of another's lines before it.

    The same for the same index, cursor and sources.
    """
    weights = index.weights(query(cursor.prefix, cursor.suffix)) if Source.IDENTIFIERS in sources else {}
    total = sum(sorted(weights.values(), reverse=True)[:FULL]) or 1.0
    scores = index.scores(weights) / total
    added = bonuses(index, cursor, sources)
    for path, bonus, mention in added:
        chunks = index.files.get(path, range(0))
        if mention is None:
            scores[chunks.start : chunks.stop] += bonus
        else:
            scores[[number for number, chunk in index.known(chunks) if mention.meets(chunk)]] += bonus
    for path in (cursor.path, *sorted(cursor.replaced)):
        chunks = index.files.get(path, range(0))
        scores[chunks.start : chunks.stop] = 0
    found = [Scored(chunk, float(scores[number])) for number, chunk in index.known(best(scores))]
    for chunk in cursor.given:
        if chunk.path != cursor.path:
            bonus = sum(
                bonus for path, bonus, mention in added if path == chunk.path and (mention is None or mention.meets(chunk))
            )
            found.append(Scored(chunk, index.score_of(known_words(chunk.text), weights) / total + bonus))
    language = family_of(cursor.path)
    factors = (1.0 if family_of(one.chunk.path) == language else OTHER_LANGUAGE for one in found)
    # rounded, so that what is equal but for the order of additions is equal
    found = [one._replace(score=round(one.score * factor, 5)) for one, factor in zip(found, factors, strict=True)]
    found.sort(key=lambda one: (-one.score, one.chunk.path, one.chunk.start))
    return distinct([one for one in found if one.score > 0], lines_of(cursor.prefix) | lines_of(cursor.suffix))


def bonuses(index: Index, cursor: Cursor, sources: Collection[Source]) -> list[tuple[str, float, Mention | None]]:
    """Path, what its chunks get, and if it is not all of them, which."""
    found: list[tuple[str, float, Mention | None]] = []
    if Source.IMPORTS in sources:
        found += [(path, BONUS[Source.IMPORTS], None) for path in sorted(cursor.imports)]
    if Source.SIBLINGS in sources:
        folder = posixpath.dirname(cursor.path)
        given = {chunk.path for chunk in cursor.given if posixpath.dirname(chunk.path) == folder}
        siblings = index.folders.get(folder, set()) | given
        found += [(path, BONUS[Source.SIBLINGS], None) for path in sorted(siblings)]
    for kind, source in ((RecentKind.OPENED, Source.OPENED), (RecentKind.EDITED, Source.EDITED)):
        if source in sources:
            mentions = list(dict.fromkeys(mention for mention in cursor.mentions if mention.kind is kind))
            found += [(one.path, BONUS[source] * FADES**age, one) for age, one in enumerate(mentions)]
    return found


def query(prefix: str, suffix: str) -> dict[str, float]:
    """Term → weight, of the identifiers around a cursor; the one that is being written is left out."""
    begun, ended = BEGUN.search(prefix[-64:]), ENDED.match(suffix)
    before = prefix[-LINES_BEFORE * 128 : len(prefix) - (len(begun[0]) if begun else 0)].split("\n")[-LINES_BEFORE:]
    after = suffix[ended.end() if ended else 0 : LINES_AFTER * 128].split("\n")[:LINES_AFTER]
    found: dict[str, float] = {}
    for lines in (before[::-1], after):
        for distance, line in enumerate(lines):
            weight = 0.5 ** (distance / HALF_LIFE)
            for identifier in dict.fromkeys(IDENTIFIER.findall(line)):
                for term in terms(identifier):
                    found[term] = max(found.get(term, 0.0), weight)
                declared = declaration(identifier)
                found[declared] = max(found.get(declared, 0.0), weight * DECLARES)
    return found


def best(scores: Scores) -> list[int]:
    """The chunks with the CANDIDATES best scores above 0, and those that are as good as the last of them."""
    found = np.flatnonzero(scores > 0)
    if len(found) > CANDIDATES:
        least = np.partition(scores[found], len(found) - CANDIDATES)[len(found) - CANDIDATES]
        found = found[scores[found] >= least][: 4 * CANDIDATES]
    return found.tolist()


def distinct(found: Sequence[Scored], shown: frozenset[str]) -> list[Scored]:
    """The first RANKED of them, without those that mostly repeat lines in `shown` or of those before them."""
    kept: list[Scored] = []
    seen = set(shown)
    for one in found:
        lines = chunk_lines(one.chunk.text)
        if len(lines & seen) > SAME_LINES * len(lines) or not lines:
            continue
        kept.append(one)
        seen |= lines
        if len(kept) == RANKED:
            break
    return kept


def lines_of(text: str) -> frozenset[str]:
    """The lines of a text that tell it apart from others, without indentation."""
    return frozenset(line for line in map(str.strip, text.split("\n")) if len(line) >= SHORTEST_LINE)


chunk_lines = lru_cache(maxsize=4 * CANDIDATES)(lines_of)


@lru_cache(maxsize=1 << 14)
def family_of(path: str) -> object:
    """What the languages that can use a file's code have in common."""
    language = language_of_name(path)
    return FAMILY.get(language, language) if language else None


known_words = lru_cache(maxsize=1 << 10)(words)
"""The words of the chunks that come with every request."""


@lru_cache(maxsize=64)
def chunks_of(path: str, text: str) -> tuple[Chunk, ...]:
    """The chunks of a file that comes with every request."""
    return tuple(cut(path, text))


known_head = lru_cache(maxsize=4 * CANDIDATES)(head)


class Fitted(NamedTuple):
    """A chunk, maybe its head alone, and the tokens that it takes with its file's name."""

    chunk: Chunk
    tokens: int


def fitted(chunk: Chunk, room: int, encode: Encode, small: bool) -> Fitted | None:
    """The chunk or else its head, whichever fits; None if neither does. small: the head, even if all of it fits."""
    for shorten in (True,) if small else (False, True):
        version = known_head(chunk) if shorten else chunk
        tokens = 1 + len(encode(f"{version.path}\n")) + len(encode(version.text))
        if tokens <= room:
            return Fitted(version, tokens)
    return None


def fit(ranked: Sequence[Scored], budget: int, encode: Encode) -> list[Fitted]:
    """Of the best chunks those that fit into a budget of tokens, in their order."""
    found: list[Fitted] = []
    room = budget
    for one in ranked[:TRIED]:
        if version := fitted(one.chunk, room, encode, small=budget < SMALL_BUDGET):
            found.append(version)
            room -= version.tokens
    return found
