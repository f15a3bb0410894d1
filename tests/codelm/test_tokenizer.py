"""The vocabulary: every text survives, special tokens are never read from text, and llama.cpp gives the same ids."""

import json
import pickle
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.preset import Preset, TokenizerConfig
from codelm.corpus.read import read_rows
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.export.gguf import write_f16
from codelm.fim import SPECIAL_TOKENS, Order
from codelm.models import build_model
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer, byte_characters, rebuilt, train

# Which characters are letters depends on the version of Unicode, and llama.cpp's tables are older than those of
# `tokenizers`: a character that Unicode 16 added may be split otherwise. 3.2 is the old version that Python carries.
OLD = [character for number in range(0x110000) if unicodedata.ucd_3_2_0.category(character := chr(number)) not in ("Cn", "Cs")]
EMOJI = [chr(number) for number in range(0x1F300, 0x1F650)] + ["👩‍👩‍👧", "🇩🇪", "❤️"]
FRAGMENTS = [
    *"    ", "\t", "\t\t", "\n", "\r\n", "\r", "\n\n\n", " \n", "\0", "\ufeff", "\xa0", "\u2028", "\x0b", "\x0c", "\x85",
    "\u3000", "def f(self):", "return", "1234567890", "3.14e-10", "don't", "I'LL", "it'S", "ſ", "'ſ", "K", "'s't're've'm'll'd",
    "==", "!==", "->", "...", "\\n", "日本語", "한국어", "größe", "é", "e\u0301", "ﬁ", "٣", "²", "Ⅳ",
    "x1", "a" * 3_000, " " * 500, "=" * 80,
    *SPECIAL_TOKENS, "<|im_end|>", "<|unused_0|>", "<|", "|>",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.sampled_from(EMOJI) | st.text(st.sampled_from(OLD), max_size=20)).map("".join)


@pytest.fixture(scope="module", params=["word", "line"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer") / request.param
    train(folder, TokenizerConfig(vocab_size=1024, split=request.param), corpus)
    return Tokenizer(folder / FILE)


@pytest.fixture(scope="module")
def llama(tokenizer: Tokenizer, tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama_cpp.Llama]:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    shape = tiny_preset.model.model_copy(update={"layers": 1})
    tensors = {name: tensor.numpy() for name, tensor in build_model(shape, 0, 1).state_dict().items()}
    metadata = BundleMetadata(
        name="x", codelm_version="0", context_length=64, fim_order=Order.SPM, tokenizer_sha256="", corpus_fingerprint=""
    )
    write_f16(path, shape, tokenizer, tensors, metadata)
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    yield model
    model.close()


@pytest.fixture(scope="module")
def files(code_dir: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(code_dir.rglob("*.py"))]


@given(TEXT | st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode()
    assert tokenizer.encode_batch([text, "x", text]) == [ids, tokenizer.encode("x"), ids]


@given(TEXT)
def test_text_is_never_read_as_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    special = {getattr(tokenizer.fim, name) for name in tokenizer.fim.__dataclass_fields__}
    assert not special & set(tokenizer.encode(text))


def test_a_copy_in_another_process_is_the_same(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "x = '<|endoftext|>'\n"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.fim == tokenizer.fim
    assert copy.sha256 == tokenizer.sha256


@settings(max_examples=300)
@given(text=TEXT)
def test_llama_cpp_gives_the_same_ids(tokenizer: Tokenizer, llama: llama_cpp.Llama, text: str) -> None:
    assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)


def test_llama_cpp_gives_the_same_ids_for_real_files(tokenizer: Tokenizer, llama: llama_cpp.Llama, files: list[str]) -> None:
    for text in files:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)


def test_llama_cpp_gives_the_same_ids_for_every_character(tokenizer: Tokenizer, llama: llama_cpp.Llama) -> None:
    for character in (*OLD[::7], *EMOJI):
        text = f"ab{character}cd {character} {character}1\n{character}\n  {character}'s"
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), hex(ord(character[0]))


def test_llama_cpp_has_the_same_bytes_for_every_id(tokenizer: Tokenizer, llama: llama_cpp.Llama) -> None:
    assert llama.n_vocab() == tokenizer.vocab_size == len(tokenizer.token_bytes)
    assert [llama.detokenize([id_]) for id_ in range(tokenizer.vocab_size)] == tokenizer.token_bytes


@given(TEXT)
def test_a_token_of_lines_stays_in_its_line(tokenizer: Tokenizer, text: str) -> None:
    if tokenizer.split == "line":
        for id_ in tokenizer.encode(text):
            piece = tokenizer.token_bytes[id_]
            assert not set(piece) & set(b"\r\n") or not set(piece) - set(b"\r\n"), piece


def test_lines_take_fewer_tokens_than_words(corpus: Path, tmp_path: Path, files: list[str]) -> None:
    counts = {}
    for split in ("word", "line"):
        train(tmp_path / split, TokenizerConfig(vocab_size=2048, split=split), corpus)
        counts[split] = sum(len(Tokenizer(tmp_path / split / FILE).encode(text)) for text in files)
    assert counts["line"] < 0.95 * counts["word"]


def test_the_special_tokens_end_the_vocabulary_in_their_order(tokenizer: Tokenizer) -> None:
    tokens, merges = tokenizer.vocabulary()
    assert tokens[-len(SPECIAL_TOKENS) :] == list(SPECIAL_TOKENS)
    assert len(tokens) == tokenizer.vocab_size == 1024
    assert len(merges) == 1024 - 256 - len(SPECIAL_TOKENS)
    assert tokenizer.decode([tokenizer.fim.fim_prefix, *tokenizer.encode("x"), tokenizer.fim.endoftext]) == b"x"


def test_the_stand_ins_of_bytes_are_told_apart() -> None:
    assert len(set(byte_characters())) == 256
    assert byte_characters()[ord("A")] == "A"
    assert byte_characters()[ord(" ")] == "Ġ"


def test_a_corpus_with_too_few_pairs_leaves_unused_tokens(tmp_path: Path, corpus: Path) -> None:
    config = TokenizerConfig(vocab_size=40_000, max_train_bytes=10_000)
    manifest = train(tmp_path / "tokenizer", config, corpus)
    tokenizer = Tokenizer(tmp_path / "tokenizer" / FILE)
    assert manifest.counts["unused"] > 0
    assert tokenizer.vocab_size == 40_000
    assert tokenizer.encode("<|unused_0|>") == tokenizer.encode("<|unused") + tokenizer.encode("_") + tokenizer.encode("0|>")


def test_training_twice_gives_the_same_vocabulary(tmp_path: Path, corpus: Path, tokenizer_dir: Path) -> None:
    first = Manifest.read(tokenizer_dir)
    config = TokenizerConfig.model_validate(first.config)
    assert train(tokenizer_dir, config, corpus).created == first.created, "nothing to do"
    assert train(tmp_path / "tokenizer", config, corpus).fingerprint == first.fingerprint


@pytest.mark.parametrize("split", ["word", "line"])
@pytest.mark.parametrize("max_train_bytes", [2_000, 1_000_000])
def test_rebuilt_of_its_parts_it_is_the_same_file(corpus: Path, tmp_path: Path, split: str, max_train_bytes: int) -> None:
    config = TokenizerConfig.model_validate({"vocab_size": 1024, "split": split, "max_train_bytes": max_train_bytes})
    # more than one file is read of the smaller limit, and still too little for so many tokens
    unused = train(tmp_path / "tokenizer", config, corpus).counts["unused"]
    tokenizer = Tokenizer(tmp_path / "tokenizer" / FILE)
    tokens, merges = tokenizer.vocabulary()
    learned = len(tokens) - len(SPECIAL_TOKENS) - unused
    assert rebuilt(tokens[:learned], tokens[learned:], merges, split) == tokenizer.json


def test_only_the_training_split_is_learned(tmp_path: Path, corpus: Path, tokenizer_dir: Path) -> None:
    size = sum(row["size"] for row in read_rows(corpus, "train", ["size"]))
    assert Manifest.read(tokenizer_dir).counts["trained_on_bytes"] == size


def without(vocabulary: str, token: str) -> str:
    tree = json.loads(vocabulary)
    tree["added_tokens"] = [added for added in tree["added_tokens"] if added["content"] != token]
    return json.dumps(tree)


def test_files_that_are_no_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / FILE
    with pytest.raises(UserError, match="not a usable tokenizer"):
        Tokenizer(path)
    for text, reason in {
        "": "",
        tokenizer.json[: len(tokenizer.json) // 2]: "",
        "{}": "",
        without(tokenizer.json, "<|fim_middle|>"): r"has no <\|fim_middle\|>",
        tokenizer.json.replace("N}", "L}"): "pre-tokenisation is not one of codelm's",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=f"not a usable tokenizer.*{reason}"):
            Tokenizer(path)
