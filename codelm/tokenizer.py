"""Byte-level BPE: training, loading, and the special tokens of the fill-in-the-middle format.

The pre-tokenisation is one that llama.cpp implements, so that a GGUF gives the same ids; there is no
normaliser, since llama.cpp has none. Text is never parsed for special tokens: "<|endoftext|>" in a source file is
ordinary text, in training as in serving.
"""

import hashlib
import json as jsonlib
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from codelm.config.preset import TokenizerConfig
from codelm.corpus.read import fingerprint, read_rows
from codelm.errors import UserError
from codelm.fim import SPECIAL_TOKENS, FimTokens
from codelm.healing import Healer
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, digest, file_sha256

FILE = "tokenizer.json"
UNUSED = "<|unused_{}|>"
"""Fills the vocabulary up where the corpus has text for fewer tokens than the preset wants."""
PATTERNS = {
    "word": (
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "line": r"\p{N}|[\r\n]+|[^\p{N}\r\n]+",
}
"""What a token may not reach across, by `TokenizerConfig.split`: merges stay inside a match."""
GGUF_PRE = {"word": "qwen2", "line": "superbpe"}
"""The pre-tokeniser of llama.cpp that gives the same ids. `superbpe` cuts at numbers alone: the merges of "line" know no
break of a line, so whether a text is cut there makes no difference."""


class Tokenizer:
    """A trained vocabulary."""

    def __init__(self, path: Path) -> None:
        """path: a tokenizer.json. Raises UserError if it is missing, broken, or lacks a special token."""
        try:
            self.__setstate__(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise UserError(f"{path} is not a usable tokenizer ({error})", "delete its folder and train it again") from error

    def __getstate__(self) -> str:
        # the library's own pickle forgets encode_special_tokens, and data workers may be started anew instead of forked
        return self.json

    def __setstate__(self, json: str) -> None:
        self.json = json
        self._backend = Backend.from_str(json)
        # special-token texts inside user code are plain text
        self._backend.encode_special_tokens = True
        self.fim = FimTokens.lookup(self._backend.token_to_id)
        self.split = split_of(json)

    @property
    def gguf_pre(self) -> str:
        """The name of its pre-tokenisation in llama.cpp."""
        return GGUF_PRE[self.split]

    @property
    def vocab_size(self) -> int:
        """Entries, special tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def sha256(self) -> str:
        """Identity of the vocabulary: a draft model must share it."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """The tokens in the order of their ids and the merges in the order of their rank, in byte-level writing."""
        ids = self._backend.get_vocab(with_added_tokens=True)
        merges = jsonlib.loads(self.json)["model"]["merges"]
        return sorted(ids, key=ids.__getitem__), [" ".join(pair) for pair in merges]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of several texts, on all cores."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; b"" for special and unused tokens."""
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        table = [b""] * len(vocabulary)
        added = self._backend.get_added_tokens_decoder()
        for token, id_ in vocabulary.items():
            if id_ not in added:
                table[id_] = bytes(byte_of[character] for character in token)
        return table

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """How many bytes each id stands for, (vocab_size,); 0 for special and unused tokens."""
        return np.array([len(piece) for piece in self.token_bytes], dtype=np.int64)

    @cached_property
    def healer(self) -> Healer:
        """Takes back what the end of a text cuts."""
        return Healer(self.token_bytes)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of a token sequence; special tokens give none."""
        return b"".join(map(self.token_bytes.__getitem__, ids))


def split_of(json: str) -> str:
    """Which of PATTERNS a tokenizer.json splits by. Raises ValueError if none."""
    steps = jsonlib.loads(json)["pre_tokenizer"]["pretokenizers"]
    pattern = steps[0]["pattern"]["Regex"]
    for name, known in PATTERNS.items():
        if pattern == known:
            return name
    raise ValueError("its pre-tokenisation is not one of codelm's")


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte, by which byte-level vocabularies write their tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_in = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_in)) for byte in range(256)]


def find(path: Path) -> Path:
    """The tokenizer.json that a path means: that file, or the one of a folder, a run, or the run that it lies in.

    Raises UserError if there is none.
    """
    for candidate in (path, path / FILE, *(folder / "tokenizer" / FILE for folder in (path, *path.absolute().parents))):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no {FILE} there", f"give a run's folder, a checkpoint in one, or a GGUF, or put a {FILE} there")


def fingerprint_of(path: Path) -> str:
    """What `Manifest.fingerprint` is of a stage that holds this tokenizer.json and nothing else."""
    return digest({FILE: file_sha256(path)})


def take(folder: Path, source: Path) -> Manifest:
    """The stage folder `<run>/tokenizer` with a tokenizer that is there already, such as that of a model to train further.

    source: a tokenizer.json. What stands in the folder is left alone if it is the same. Raises UserError if it is another
    one, or if the source is no usable tokenizer.
    """
    vocabulary = Tokenizer(source)
    if folder.exists() and (held := Manifest.read(folder)).fingerprint != fingerprint_of(source):
        raise UserError(
            f"{folder} holds another tokenizer ({held.counts['vocab_size']:,} entries) than {source}",
            "give another run folder with --run: what was encoded with the one means nothing to the other",
        )
    if folder.exists():
        return Manifest.read(folder)
    stage = Stage(folder, {"taken": vocabulary.sha256}, libraries=("tokenizers",))
    with stage.build() as temporary:
        shutil.copyfile(source, temporary / FILE)
        unused = sum(not piece for piece in vocabulary.token_bytes) - len(SPECIAL_TOKENS)
        stage.counts = {"vocab_size": vocabulary.vocab_size, "unused": unused}
    return Manifest.read(folder)


def byte_level(model: models.BPE, split: str) -> Backend:
    """A byte-level BPE around its merges. split: of PATTERNS."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[split]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def add_special(backend: Backend, tokens: list[str]) -> None:
    """Appends tokens that no text is ever parsed for."""
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def rebuilt(learned: list[str], special: list[str], merges: list[str], split: str) -> str:
    """The tokenizer.json of a vocabulary, as `train` would have written it.

    learned, special: tokens by their ids, those of texts before those of no text, special and unused. merges: by their rank,
    "left right". split: of PATTERNS. Raises whatever the library does if they do not fit together.
    """
    vocabulary = {token: id_ for id_, token in enumerate(learned)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = byte_level(models.BPE(vocab=vocabulary, merges=pairs), split)
    add_special(backend, special)
    return str(backend.to_str())


def train(folder: Path, config: TokenizerConfig, corpus: Path, progress: Progress = silent) -> Manifest:
    """Trains the BPE on the training split of a corpus; the stage folder `<run>/tokenizer`."""
    made = Manifest.read(corpus)
    stage = Stage(folder, config, {"corpus": fingerprint(corpus)}, libraries=("tokenizers",))
    if manifest := stage.done():
        return manifest
    backend = byte_level(models.BPE(), config.split)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    total = min(made.counts["splits"]["train"]["bytes"], config.max_train_bytes)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for row in read_rows(corpus, "train"):
            if read > config.max_train_bytes:
                return
            yield row["content"]
            read += row["size"]
            progress(read, total)

    with stage.build() as temporary:
        backend.train_from_iterator(texts(), trainer)
        learned = backend.get_vocab_size()
        # a small corpus runs out of pairs to merge; the model's shape stays that of its preset
        unused = [UNUSED.format(i) for i in range(config.vocab_size - learned - len(SPECIAL_TOKENS))]
        add_special(backend, [*SPECIAL_TOKENS, *unused])
        (temporary / FILE).write_text(backend.to_str(), encoding="utf-8")
        stage.counts = {"vocab_size": backend.get_vocab_size(), "unused": len(unused), "trained_on_bytes": read}
    return Manifest.read(folder)
