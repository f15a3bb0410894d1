"""The model's next-token probabilities, mixed with what follows the same context in the open file and the project.

The context is matched as the tokenizer would write it. A cursor often cuts a token in two ("self.conf" of "self.config"), and
what a model writes from there on is other tokens than the project's files have. So the line with the cursor is tokenised
anew with what has been written, and for a token that the cursor cuts, those that begin with it are looked for, whose rest is
what may come next.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.mixture.open_file import Encode, OpenFile, blocks, common
from serving.mixture.project import Content, Project
from serving.mixture.table import MAX_VOCAB, ORDER, ROW_BYTES
from serving.mixture.weights import (
    DISTANCE_SCALE,
    FILE,
    MAX_BEGUN,
    Candidates,
    Floats,
    Opinion,
    Source,
    Terms,
    WeightsFile,
)
from serving.prompt import steps_over
from serving.request import CompletionRequest

Kind = Source
"""What a document is to the open file: a neighbour (open, recent, of the same folder) or another file of the workspace."""

OPEN_FILES = 4
"""That are kept up to date without being tokenised from the beginning."""
FIRST_CHARS, OPEN_CHARS = 1 << 13, 1 << 18
"""Of the open file before the cursor, and after it: in its first request, whose answer is not to wait for a whole file, and at
last. Each request takes in twice as much as the one before."""
CUT_TOKENS = 3
"""What is one token in the project may be this many where the cursor cuts it."""
REMEMBERED = 64
"""Opinions of one request."""
DRAFT_CONFIDENCE = 0.5
"""How likely all of a draft must be right."""

_ENDS_INSIDE = re.compile(rb"\w\Z")
_ALL_INSIDE = re.compile(rb"\w+\Z")


class Mixer:
    """The project as memory, for one vocabulary. Safe to use from every thread."""

    def __init__(
        self,
        encode: Encode,
        piece: Callable[[int], bytes],
        vocab_size: int,
        max_tokens: int = 2_000_000,
        weights: Path = FILE,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """encode, piece: text → ids and id → bytes, callable from every thread. max_tokens: of the project, at ROW_BYTES each.
        on_change: called in a thread of its own when what counts of the project has changed.

        Raises ValueError if the vocabulary has more than MAX_VOCAB tokens.
        """
        if vocab_size > MAX_VOCAB:
            raise ValueError(f"a vocabulary of {vocab_size} tokens is larger than {MAX_VOCAB}")
        self.encode = encode
        self._piece = piece
        self._vocab_size = vocab_size
        self._pieces: dict[int, bytes] = {}
        self._insides: dict[int, int] = {}
        self._first = lru_cache(maxsize=1 << 12)(lambda text: encode(text)[0])
        self._max_tokens = max_tokens
        self._project = Project(encode, max_tokens, on_change)
        self._weights = WeightsFile.read(weights)
        self._terms: dict[str | None, Terms] = {}
        self._open: OrderedDict[str | None, tuple[OpenFile, int]] = OrderedDict()
        self._lock = threading.Lock()

    def update(self, document: str, content: Content, kind: Kind = Kind.WORKSPACE) -> None:
        """Soon what the document says counts. content: its text or ids. Costs nothing if it has not changed."""
        self._project.update(document, content, kind)

    def remove(self, document: str) -> None:
        """Soon the document counts no more."""
        self._project.update(document, None, Kind.WORKSPACE)

    def wait(self) -> None:
        """Returns when all updates and removals so far are done."""
        self._project.wait()

    def close(self) -> None:
        """Ends the thread."""
        self._project.close()

    @property
    def tokens(self) -> int:
        """Tokens of the project that count."""
        return len(self._project.snapshot.table)

    @property
    def nbytes(self) -> int:
        """Memory of the project's rows and, about, of the open files."""
        with self._lock:
            return self._project.snapshot.table.nbytes + self._of_open_files()

    def limit(self, max_bytes: int) -> None:
        """Soon it takes no more memory: the open files that were not asked about for longest go, then files of the project."""
        with self._lock:
            while len(self._open) > 1 and self._of_open_files() > max_bytes // 2:
                self._open.popitem(last=False)
            left = max(0, max_bytes - self._of_open_files())
        self._project.limit(min(self._max_tokens, left // ROW_BYTES))

    def _of_open_files(self) -> int:
        return sum(file.nbytes for file, _ in self._open.values())

    def begin(self, request: CompletionRequest, prompt_ids: Sequence[int]) -> "Mixing":
        """Takes in the open file as it is now, or what is near the cursor while it is new.

        prompt_ids: the prompt, which ends with the prefix (SPM order), or but for its last tokens, where those are to be
        written again.

        The request's files are neighbours from then on. What the project has under the request's document or path is left out:
        it is the open file as it was once.
        """
        for file in request.files:
            self.update(file.path, file.text, Kind.NEIGHBOUR)
        with self._lock:
            key = request.document
            first = OPEN_CHARS if key is None else FIRST_CHARS  # what does not come again does not grow
            file_, reach = self._open.pop(key) if key in self._open else (OpenFile(self.encode), first)
            self._open[key] = file_, min(OPEN_CHARS, 2 * reach)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
            prefix = request.prefix[steps_over(len(request.prefix), reach) :]
            before = file_.update(prefix, request.suffix[:reach])
            line = blocks(prefix[prefix.rfind("\n") + 1 :])[-1:]
            return Mixing(self, file_, request, prompt_ids, before, "".join(line), self._terms_of(request.language))

    def _terms_of(self, language: str | None) -> Terms:
        if language not in self._terms:
            self._terms[language] = Terms(self._weights.of(language))
        return self._terms[language]

    def piece(self, token: int) -> bytes:
        """The token's bytes."""
        if token not in self._pieces:
            self._pieces[token] = self._piece(token) if 0 <= token < self._vocab_size else b""
        return self._pieces[token]

    def rest(self, token: int, begun: bytes) -> int | None:
        """What comes first of a token's bytes after those begun; None if it does not begin with them, or has no more."""
        piece = self.piece(token)
        if len(piece) <= len(begun) or not piece.startswith(begun):
            return None
        try:
            return self._first(piece[len(begun) :].decode())
        except UnicodeDecodeError:
            return None

    def inside(self, ids: Sequence[int]) -> int:
        """How many of the last tokens an identifier has begun in, at most ORDER; 0 outside of one."""
        count = 0
        for token in reversed(ids[-ORDER:]):
            if token not in self._insides:
                piece = self.piece(token)
                self._insides[token] = 2 if _ALL_INSIDE.match(piece) else int(bool(_ENDS_INSIDE.search(piece)))
            inside = self._insides[token]
            count += inside > 0
            if inside < 2:
                break
        return count


class Mixing:
    """The mixture for one request: of the open file and the project as they were when it began."""

    def __init__(
        self,
        mixer: Mixer,
        file: OpenFile,
        request: CompletionRequest,
        prompt_ids: Sequence[int],
        before: list[int],
        line: str,
        terms: Terms,
    ) -> None:
        self._mixer = mixer
        self._table, self._distances = file.table, np.log1p(file.distances / np.float32(DISTANCE_SCALE), dtype=np.float32)
        self._project = mixer._project.snapshot
        names = (request.document, request.path)
        self._own = [self._project.tags[name] for name in names if name is not None and name in self._project.tags]
        self._prompt = list(prompt_ids[-2 * ORDER :])
        self._cursor = len(prompt_ids)
        self._before = before
        self._missing = missing(self._prompt, before)
        self._line_tokens = len(mixer.encode(line))
        self._terms = terms
        self._opinions: dict[tuple[int, tuple[int, ...]], Opinion | None] = {}

    def mix(self, logprobs: Floats, context: Sequence[int]) -> Floats:
        """The mixture's log-probabilities of the next token, (vocab,), whose exponentials sum to one as those given do.

        logprobs: the model's, (vocab,). context: all ids so far, the prompt's (or, where tokens were taken back, all but the
        last of them) and those written since.
        """
        opinion = self.opinion(context)
        return logprobs if opinion is None else self._terms.mix(opinion, logprobs)

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """What the project goes on with, at most `limit` ids, for as long as it is likely right."""
        drafted: list[int] = []
        confidence = 1.0
        ids = list(context)
        while len(drafted) < limit and (opinion := self.opinion(ids)):
            confidence *= self._terms.confidence(opinion)
            if confidence < DRAFT_CONFIDENCE:
                break
            token = int(opinion.tokens[opinion.top])
            drafted.append(token)
            ids.append(token)
        return drafted

    def opinion(self, context: Sequence[int]) -> Opinion | None:
        """What the project says comes next; None if it has nothing to say."""
        # what has been drafted is mixed next
        key = len(context), tuple(context[-2 * ORDER :])
        if key not in self._opinions:
            if len(self._opinions) >= REMEMBERED:
                self._opinions.clear()
            candidates, inside = self.matches(context)
            self._opinions[key] = None if candidates is None else self._terms.opinion(candidates, inside)
        return self._opinions[key]

    def matches(self, context: Sequence[int]) -> tuple[Candidates | None, bool]:
        """The rows that match, and whether the context ends within an identifier."""
        ids, cut = self._tail(context)
        found = self._search(ids)
        if cut:
            for kept, begun in self._cuts(ids):
                found += [rows for one in self._search(kept) if (rows := self._going_on(one, begun))]
        inside = self._mixer.inside(ids) > 0
        if not found:
            return None, inside
        columns: list[npt.NDArray[Any]] = [np.concatenate(column) for column in zip(*found, strict=True)]
        return Candidates(*columns), inside

    def _cuts(self, ids: Sequence[int]) -> Iterator[tuple[Sequence[int], bytes]]:
        """The ways in which the cursor may cut a token: the ids before it, and what stands of it."""
        last = self._mixer.piece(ids[-1])
        if len(last) > 1 and last.endswith(b" ") and not last.strip():
            # the last space of an indentation belongs to the token that follows
            yield [*ids[:-1], *self._mixer.encode(last[:-1].decode())], b" "
        for count in range(1, min(CUT_TOKENS, len(ids) - 1) + 1):
            begun = b"".join(map(self._mixer.piece, ids[-count:]))
            if count > 1 and not _ALL_INSIDE.match(begun[1:]):
                break
            yield ids[:-count], begun

    def _search(self, ids: Sequence[int]) -> list[Candidates]:
        """Of the open file and of the project."""
        inside = self._mixer.inside(ids)
        found = []
        if matches := self._table.search(ids):
            tokens, tags, lengths = matches
            none = np.zeros(len(tokens), dtype=np.int8)
            found.append(Candidates(tokens, lengths, none, self._distances[tags], lengths < inside, none))
        if matches := self._project.table.search(ids):
            tokens, tags, lengths = matches
            for tag in self._own:
                kept = tags != tag
                tokens, tags, lengths = tokens[kept], tags[kept], lengths[kept]
            if len(tokens):
                none = np.zeros(len(tokens), dtype=np.int8)
                sources = self._project.sources[tags]
                found.append(Candidates(tokens, lengths, sources, none.astype(np.float32), lengths < inside, none))
        return found

    def _going_on(self, rows: Candidates, begun: bytes) -> Candidates | None:
        """Those whose token begins with what has been begun, as what is left of it."""
        kept, rests = [], []
        for index, token in enumerate(rows.tokens.tolist()):
            rest = self._mixer.rest(token, begun)
            if rest is not None:
                kept.append(index)
                rests.append(rest)
        if not kept:
            return None
        columns: list[npt.NDArray[Any]] = [column[kept] for column in rows]
        characters = np.full(len(kept), min(len(begun), MAX_BEGUN), dtype=np.int8)
        return Candidates(*columns)._replace(tokens=np.array(rests, dtype=np.int32), begun=characters)

    def _tail(self, context: Sequence[int]) -> tuple[Sequence[int], bool]:
        """The end of the context as the tokenizer would write it, and whether the cursor cuts its last token."""
        taken = 0
        while taken < len(self._prompt) and not (
            self._cursor - taken <= len(context) and context[self._cursor - taken - 1] == self._prompt[-1 - taken]
        ):
            taken += 1
        written = context[self._cursor - taken :]
        taken += self._missing
        if len(written) >= 2 * ORDER:
            return context[-ORDER:], False
        before = self._before[: len(self._before) - taken]
        if not written:
            return before, taken == 0 and bool(before)
        line_tokens = self._line_tokens - taken
        if line_tokens <= 0:  # the cursor was between tokens, or nothing is left of the line
            return [*before, *written], False
        stable, line = before[:-line_tokens], before[-line_tokens:]
        head = b"".join(map(self._mixer.piece, line))
        try:
            ids = self._mixer.encode((head + b"".join(map(self._mixer.piece, written))).decode())
        except UnicodeDecodeError:  # half a character has been written
            return [*before, *written], False
        last = len(self._mixer.piece(ids[-1]))
        reaches_back = taken == 0 and sum(len(self._mixer.piece(token)) for token in written) < last
        return [*stable, *ids], reaches_back


def missing(prompt: Sequence[int], before: Sequence[int]) -> int:
    """How many of the last ids before the cursor the prompt lacks: the fewest with which most of its end is the same."""

    def same(lacking: int) -> int:
        return common(prompt[::-1], before[: len(before) - lacking][::-1])

    return max(range(min(ORDER, len(before)) + 1), key=lambda lacking: (same(lacking), -lacking))
