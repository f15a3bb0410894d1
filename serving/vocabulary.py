"""The tokens of a model that runs elsewhere: of its GGUF, of which only the vocabulary is loaded, or of its tokenizer.json."""

from dataclasses import dataclass
from pathlib import Path

from codelm import __version__
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.fim import FimTokens, Order
from serving.prompt import Encode

CONTEXT = 2048
"""Tokens of context where no bundle tells it and the engine does not either."""


@dataclass(frozen=True)
class Vocabulary:
    """What is needed to build prompts as token ids. encode is not to be called by two threads at once."""

    metadata: BundleMetadata
    fim: FimTokens
    encode: Encode


def open_vocabulary(path: Path) -> Vocabulary:
    """Of a GGUF made by `codelm export`, or of a tokenizer.json. Raises UserError if it is neither."""
    if path.suffix not in (".gguf", ".json"):
        raise UserError(f"{path} is neither a GGUF nor a tokenizer.json", "give the bundle that the upstream serves")
    return of_gguf(path) if path.suffix == ".gguf" else of_tokenizer(path)


def bare_metadata(name: str, sha256: str = "", context: int = CONTEXT) -> BundleMetadata:
    """What stands for a bundle's metadata where there is none."""
    return BundleMetadata(
        name=name,
        codelm_version=__version__,
        context_length=context,
        fim_order=Order.SPM,
        tokenizer_sha256=sha256,
        corpus_fingerprint="",
    )


def of_tokenizer(path: Path) -> Vocabulary:
    """Of a tokenizer.json: there is no gate and no name, and the context is CONTEXT."""
    from codelm.tokenizer import Tokenizer

    tokenizer = Tokenizer(path)
    return Vocabulary(bare_metadata(path.parent.name, tokenizer.sha256), tokenizer.fim, tokenizer.encode)


def of_gguf(path: Path) -> Vocabulary:
    """Of a GGUF, through llama.cpp."""
    import llama_cpp

    from serving.llamacpp import fim_tokens_of, load, metadata_of, tokenize

    model = load(path, vocab_only=True)
    vocab = llama_cpp.llama_model_get_vocab(model)

    def encode(text: str) -> list[int]:
        return tokenize(vocab, text, special=False)

    return Vocabulary(metadata_of(model, path), fim_tokens_of(vocab, path), encode)
