"""Corpus rows → memory-mapped token shards with an index of their documents; the stage folder `<run>/tokens`.

Of each split:

    <split>.ids               the ids of all documents, one after the other
    <split>.offsets.npy       where each document begins and the last ends
    <split>.prose             a bit for each token: whether it stands in a comment or docstring
    <split>.documents.arrow   repo, path, language, license, source, order and size of each document
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from codelm.config.settings import Settings
from codelm.corpus.prose import prose_tokens
from codelm.corpus.read import fingerprint, read_rows
from codelm.corpus.rows import Row
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, digest, file_sha256
from codelm.tokenizer import FILE, Tokenizer

BATCH_BYTES = 4_000_000
LAYOUT = 2
"""Of the files; another number, and older folders are encoded anew."""
NAMES = pa.dictionary(pa.int32(), pa.string())
DOCUMENT = pa.schema(
    [
        pa.field("repo", NAMES, nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", NAMES, nullable=False),
        pa.field("license", NAMES),
        pa.field("source", NAMES, nullable=False),  # the corpus's
        pa.field("order", pa.int32(), nullable=False),  # position in its repository, dependencies first
        pa.field("size", pa.int64(), nullable=False),  # bytes, as the corpus counts them
    ]
)


class TokensConfig(Settings):
    """Nothing to choose yet."""

    layout: int = LAYOUT


class Documents:
    """The index of a shard's documents: one row each, in the order of the shard."""

    def __init__(self, table: pa.Table) -> None:
        """table: the columns of DOCUMENT."""
        columns = table.combine_chunks().unify_dictionaries()
        self._columns = {name: columns[name].chunk(0) for name in DOCUMENT.names}

    def __len__(self) -> int:
        return len(self._columns["path"])

    def names(self, column: str) -> list[str]:
        """The values of repo, language, license or source, each once; `codes` are their numbers."""
        return [name or "" for name in self._columns[column].dictionary.to_pylist()]

    def codes(self, column: str) -> npt.NDArray[np.int64]:
        """The number in `names` of each document, (documents,); −1 where nothing is known."""
        return self._columns[column].indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def numbers(self, column: str) -> npt.NDArray[np.int64]:
        """`order` or `size` of each document, (documents,)."""
        return self._columns[column].to_numpy().astype(np.int64)

    @cached_property
    def _languages(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        return self.names("language"), self.codes("language")

    def language(self, document: int) -> str:
        """The language of one document."""
        names, codes = self._languages
        return names[codes[document]]

    def repo(self, document: int) -> str:
        """The repository of one document."""
        return str(self._columns["repo"][document].as_py())

    def path(self, document: int) -> str:
        """The path of one document in its repository."""
        return str(self._columns["path"][document].as_py())

    def places(self) -> list[str]:
        """repo/path of every document, in order."""
        joined = pa.compute.binary_join_element_wise(self._columns["repo"].cast(pa.string()), self._columns["path"], "/")
        return [str(place) for place in joined.to_pylist()]

    def place(self, document: int) -> str:
        """repo/path of one document."""
        return f"{self.repo(document)}/{self.path(document)}"


@dataclass(frozen=True, eq=False)
class TokenShard:
    """The documents of one split, one after the other, without special tokens between them.

    ids: (tokens,) uint16 or uint32, memory-mapped. offsets: (documents + 1,) int64, where each begins and the last ends.
    text_bytes: UTF-8 bytes of all documents. prose: a bit for each token, the first in the highest bit of a byte.
    alpha: the exponent by which the corpus would mix languages and sources. place: folder and split of the files; another
    process opens them anew instead of getting a copy of their contents.
    """

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    text_bytes: int
    prose: npt.NDArray[np.uint8] | None = None
    documents: Documents | None = None
    alpha: float = 1.0
    place: tuple[Path, str] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> Any:
        return (map_shard, self.place) if self.place else super().__reduce__()

    def prose_of(self, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Which of the tokens first … last − 1 stand in comments and docstrings, (last − first,); none if that is not known."""
        if self.prose is None:
            return np.zeros(last - first, dtype=bool)
        bits = np.unpackbits(self.prose[first >> 3 : (last + 7) >> 3])
        return bits[first & 7 :][: last - first].view(bool)

    def language_of(self, document: int) -> str | None:
        """The language of a document, if the shard knows it."""
        return self.documents.language(document) if self.documents else None


def encode(folder: Path, corpus: Path, tokenizer: Path, progress: Progress = silent) -> Manifest:
    """Encodes both splits of a corpus."""
    made = Manifest.read(corpus)
    source_of, alpha = made.counts["mixture"]["source_of"], made.counts["mixture"]["alpha"]
    inputs = {
        "corpus": fingerprint(corpus),
        "mixture": digest([source_of, alpha]),
        "tokenizer": Manifest.read(tokenizer).fingerprint,
    }
    stage = Stage(folder, TokensConfig(), inputs, libraries=("numpy", "pyarrow", "tokenizers", "tree-sitter"))
    if manifest := stage.done():
        return manifest
    vocabulary = Tokenizer(tokenizer / FILE)
    total = sum(split["bytes"] for split in made.counts["splits"].values())
    with stage.build() as temporary:
        done = 0
        for split in ("train", "valid"):
            read = partial(lambda before, read: progress(before + read, total), done)
            stage.counts[split] = encode_split(temporary, corpus, split, vocabulary, source_of, read)
            done += stage.counts[split]["text_bytes"]
        stage.counts |= {"dtype": np.dtype(dtype_of(vocabulary)).name, "alpha": alpha}
    return Manifest.read(folder)


def encode_split(
    folder: Path,
    corpus: Path,
    split: str,
    vocabulary: Tokenizer,
    source_of: dict[str, str],
    read: Callable[[int], None],
) -> dict[str, Any]:
    """Writes the files of one split; returns what the manifest says of it. read: hears how many bytes are done."""
    offsets, text_bytes, prose_count, dtype = [0], 0, 0, dtype_of(vocabulary)
    index: dict[str, list[Any]] = defaultdict(list)
    with (folder / f"{split}.ids").open("wb") as ids_file, BitWriter(folder / f"{split}.prose") as prose_file:
        for rows in batches(corpus, split):
            encoded = vocabulary.encode_batch([row["content"] for row in rows])
            for row, ids in zip(rows, encoded, strict=True):
                text, array = row["content"].encode(), np.asarray(ids, dtype=dtype)
                ids_file.write(array.tobytes())
                prose = prose_tokens(text, row["language"], vocabulary.byte_lengths[array])
                prose_file.write(prose)
                offsets.append(offsets[-1] + len(ids))
                for name, value in document(row, source_of).items():
                    index[name].append(value)
                prose_count += int(np.count_nonzero(prose))
                text_bytes += len(text)
            read(text_bytes)
    np.save(folder / f"{split}.offsets.npy", np.asarray(offsets, dtype=np.int64))
    write_index(folder / f"{split}.documents.arrow", index)
    return {
        "documents": len(offsets) - 1,
        "tokens": offsets[-1],
        "prose_tokens": prose_count,
        "text_bytes": text_bytes,
        "bytes_per_token": round(text_bytes / max(offsets[-1], 1), 3),
    }


def dtype_of(vocabulary: Tokenizer) -> type[np.unsignedinteger[Any]]:
    """The type of the ids in a shard."""
    return np.uint16 if vocabulary.vocab_size <= 1 << 16 else np.uint32


def document(row: Row, source_of: dict[str, str]) -> dict[str, Any]:
    """The row of the index for a row of the corpus."""
    kept: dict[str, Any] = {name: row[name] for name in DOCUMENT.names if name != "source"}  # type: ignore[literal-required]
    return kept | {"source": source_of.get(row["repo"], "")}


def write_index(path: Path, columns: dict[str, list[Any]]) -> None:
    """Writes the index as one batch, so that it can be mapped and any row of it read at once."""
    batch = pa.record_batch({name: columns[name] for name in DOCUMENT.names}, schema=DOCUMENT)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, DOCUMENT) as writer:
        writer.write_batch(batch)


class BitWriter:
    """Writes truth values, eight to a byte, the first in the highest bit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = np.zeros(0, dtype=bool)

    def __enter__(self) -> "BitWriter":
        self.file = self.path.open("wb")
        return self

    def write(self, bits: npt.NDArray[np.bool_]) -> None:
        """Adds values; up to seven wait for the next ones."""
        bits = np.concatenate([self.rest, bits])
        whole = len(bits) // 8 * 8
        self.file.write(np.packbits(bits[:whole]).tobytes())
        self.rest = bits[whole:]

    def __exit__(self, *_: object) -> None:
        self.file.write(np.packbits(self.rest).tobytes())
        self.file.close()


def batches(corpus: Path, split: str) -> Iterator[list[Row]]:
    """The rows of a split in order, a few megabytes of text at a time."""
    rows: list[Row] = []
    size = 0
    for row in read_rows(corpus, split, columns=["content", *(name for name in DOCUMENT.names if name != "source")]):
        rows.append(row)
        size += len(row["content"])
        if size >= BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def open_shard(folder: Path, split: str) -> TokenShard:
    """One split, memory-mapped. Raises UserError if its files are not what was written, or of another layout."""
    manifest = Manifest.read(folder)
    if manifest.config.get("layout") != LAYOUT:
        raise UserError(
            f"{folder}: the {split} shard was written by another version of codelm",
            f"encode it again with `codelm tokenizer train --run {folder.parent}`",
        )
    try:
        for name in (f"{split}.ids", f"{split}.offsets.npy", f"{split}.prose", f"{split}.documents.arrow"):
            if file_sha256(folder / name) != manifest.outputs[name]:
                raise ValueError(f"{name} does not match its hash")
        return map_shard(folder, split)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: the {split} shard is damaged ({error})", f"delete {folder} and run again") from error


def map_shard(folder: Path, split: str) -> TokenShard:
    """One split, memory-mapped, of files that were looked at before."""
    counts = Manifest.read(folder).counts
    return TokenShard(
        ids=np.memmap(folder / f"{split}.ids", dtype=counts["dtype"], mode="r"),
        offsets=np.load(folder / f"{split}.offsets.npy"),
        text_bytes=counts[split]["text_bytes"],
        prose=np.memmap(folder / f"{split}.prose", dtype=np.uint8, mode="r"),
        documents=Documents(pa.ipc.open_file(pa.memory_map(str(folder / f"{split}.documents.arrow"))).read_all()),
        alpha=counts["alpha"],
        place=(folder, split),
    )
