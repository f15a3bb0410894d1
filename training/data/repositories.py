"""Files of one repository after the other in a window, each with its name."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codelm import fim
from codelm.tokenizer import Tokenizer
from training.data.mixture import known
from training.data.packing import Cut, Epochs, Piece

SHORTEST_PART = 32
"""Tokens of a file behind its name: where there is room for fewer, a new window begins."""


class RepositoryEpoch(NamedTuple):
    """The parts of files by windows: of each the document, where in it it begins, its size, and whether the name of the
    repository stands before that of the file.

    windows: (windows + 1,), where the parts of each begin. order: of the windows.
    """

    documents: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    named: npt.NDArray[np.bool_]
    windows: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]


class RepositoryPacking(Epochs[RepositoryEpoch]):
    """Repositories one after the other, their files in dependency order or, of some, in a random one.

    A window says the names of the repository and of the file that it begins with, also in the middle of a file. Its last
    file is the one that may be filled in the middle, with the others before it. Windows of an epoch depend on its order, so
    to know where epoch n begins all epochs before have to be laid out.
    """

    def __init__(self, tokenizer: Tokenizer, ordered_share: float, *args: Any) -> None:
        """ordered_share: of the repositories, those laid out dependencies first. args: of Epochs."""
        super().__init__(*args)
        self.tokenizer = tokenizer
        self.ordered_share = ordered_share
        self.index = known(self.shard)
        self.capacity = self.length + 1
        self.longest_name = fim.longest_name(self.length)
        repos, order = self.index.codes("repo")[self.documents], self.index.numbers("order")[self.documents]
        files = np.lexsort((order, repos))
        self.files = np.split(files, np.flatnonzero(np.diff(repos[files])) + 1)
        """of each repository, as indices in `documents`, in dependency order"""
        # the text of a file ends its last line
        line_ends = [id_ for id_, text in enumerate(tokenizer.token_bytes) if text.endswith(b"\n")]
        last = self.shard.ids[np.maximum(self.shard.offsets[self.documents + 1] - 1, 0)]
        self.line_break = tokenizer.encode("\n")
        self.lacks_break = (self.sizes() == 1) | ~np.isin(last, line_ends)
        self.contents = self.sizes() - 1 + len(self.line_break) * self.lacks_break
        names = [self.file_name(int(document)) for document in self.documents]
        self.file_headers = np.array([len(name) for name in names], dtype=np.int64)
        self.begins = [0]
        """of the epochs laid out so far, in windows"""

    def file_name(self, document: int) -> list[int]:
        """The ids that open a file."""
        header = fim.file_header(self.tokenizer.fim, self.tokenizer.encode, self.index.path(document))
        return fim.shortened(header, self.longest_name)

    def repo_name(self, document: int) -> list[int]:
        """The ids that open a file's repository."""
        header = fim.repo_header(self.tokenizer.fim, self.tokenizer.encode, self.index.repo(document))
        return fim.shortened(header, self.longest_name)

    def lay_out(self, number: int, random: np.random.Generator) -> RepositoryEpoch:
        documents: list[int] = []
        starts: list[int] = []
        sizes: list[int] = []
        named: list[bool] = []
        windows = [0]
        room = self.capacity
        for repo in random.permutation(len(self.files)).tolist():
            files = self.files[repo]
            if random.random() >= self.ordered_share:
                files = random.permutation(files)
            header = len(self.repo_name(int(self.documents[files[0]])))
            name_it = True
            for file in files.tolist():
                start, missing = 0, int(self.contents[file]) + (file == files[-1])
                while missing:
                    names = int(self.file_headers[file]) + header * name_it
                    if room < names + min(missing, SHORTEST_PART) and room < self.capacity:
                        windows.append(len(documents))
                        room, name_it = self.capacity, True
                        continue
                    size = min(missing, room - names)
                    documents.append(file)
                    starts.append(start)
                    sizes.append(size)
                    named.append(name_it)
                    room -= names + size
                    start, missing, name_it = start + size, missing - size, False
        windows.append(len(documents))
        return RepositoryEpoch(
            self.documents[np.array(documents, dtype=np.int64)],
            np.array(starts),
            np.array(sizes),
            np.array(named),
            np.array(windows),
            random.permutation(len(windows) - 1),
        )

    def pieces(self, n: int) -> Iterator[Piece]:
        while self.begins[-1] <= n:
            self.begins.append(self.begins[-1] + len(self.epoch(len(self.begins) - 1).order))
        number = int(np.searchsorted(self.begins, n, side="right")) - 1
        epoch = self.epoch(number)
        window = int(epoch.order[n - self.begins[number]])
        last = int(epoch.windows[window + 1]) - 1
        for at in range(int(epoch.windows[window]), last + 1):
            document, named = int(epoch.documents[at]), bool(epoch.named[at])
            names = np.array((self.repo_name(document) if named else []) + self.file_name(document), dtype=np.int64)
            yield Piece(names, np.zeros(len(names), dtype=bool), document, goes_on=not named, may_be_fim=False)
            part = self.part(document, int(epoch.starts[at]), int(epoch.sizes[at]))
            yield part._replace(goes_on=True, may_be_fim=at == last)

    def part(self, document: int, start: int, size: int) -> Piece:
        """A part of a file: its text, then a line break if it has none, then <|endoftext|> if it is its repository's last."""
        first, end = (int(offset) for offset in self.shard.offsets[document : document + 2])
        text = self.shard.ids[first + start : min(end, first + start + size)].astype(np.int64)
        prose = self.shard.prose_of(min(end, first + start), min(end, first + start + size))
        index = int(np.searchsorted(self.documents, document))
        tail = [*self.line_break * bool(self.lacks_break[index]), self.end][max(0, first + start - end) :]
        ids = np.append(text, tail[: size - len(text)]).astype(np.int64)
        return Piece(ids, np.append(prose, np.zeros(len(ids) - len(text), dtype=bool)), document)

    def cut(self) -> Cut:
        epoch = self.epoch(0)
        _, parts = np.unique(epoch.documents, return_counts=True)
        window = np.repeat(np.arange(len(epoch.windows) - 1), np.diff(epoch.windows))
        names = self.file_headers[np.searchsorted(self.documents, epoch.documents)].sum() + sum(
            len(self.repo_name(int(document))) for document in epoch.documents[epoch.named]
        )
        used = int(epoch.sizes.sum() + names)
        return Cut(int(np.count_nonzero(parts > 1)), 1 - used / ((int(window[-1]) + 1) * self.capacity))
