"""How large the files will be: checkpoints, and GGUF by the types that llama.cpp gives each tensor."""

from collections.abc import Iterator
from pathlib import Path

import gguf

from codelm.config.model import ModelConfig
from codelm.config.pretrain import PretrainConfig
from codelm.models import parameter_count
from codelm.tokenizer import Tokenizer
from training.plan.memory import FLOAT, optimizer_bytes

FORMATS = ("f16", "q8_0", "q4_k_m")
PER_TOKEN = 34
"""Bytes of metadata that an entry of the vocabulary takes, its merge included, where the vocabulary is not there yet."""
METADATA = 2_000
"""Bytes of the other keys."""
PER_TENSOR = 80
"""Bytes that tell a tensor's name, type, shape and place."""


def checkpoint_bytes(model: ModelConfig, config: PretrainConfig) -> int:
    """A checkpoint to resume from: weights in float32 and what the optimiser remembers; the running mean as weights besides."""
    return FLOAT * parameter_count(model) * (1 if config.ema is None else 2) + optimizer_bytes(model, config)


def gguf_bytes(model: ModelConfig, format_: str, tokenizer: Path | None = None) -> int:
    """The size of a GGUF file in one of FORMATS.

    tokenizer: tokenizer.json, if there is one; without it, the size of the vocabulary's texts is an estimate.
    """
    tensors = list(tensor_types(model, format_))
    data = sum(padded(tensor_bytes(count, type_)) for count, type_ in tensors)
    return data + vocabulary_bytes(model, tokenizer) + METADATA + PER_TENSOR * len(tensors)


def vocabulary_bytes(model: ModelConfig, tokenizer: Path | None) -> int:
    """Tokens, merges and types; a text has its length of 8 bytes before it, a type has 4."""
    if tokenizer is None:
        return PER_TOKEN * model.vocab_size
    tokens, merges = Tokenizer(tokenizer).vocabulary()
    return sum(8 + len(text.encode()) for text in (*tokens, *merges)) + 4 * len(tokens)


def tensor_types(model: ModelConfig, format_: str) -> Iterator[tuple[int, gguf.GGMLQuantizationType]]:
    """Each tensor's numbers and type.

    Norms are float32. Q4_K_M is llama.cpp's mixture (src/llama-quant.cpp): the embedding, which is the head too, and values
    and the FFN's way down in the blocks that matter more are Q6_K, everything else Q4_K.
    """
    types = gguf.GGMLQuantizationType
    most, better = {
        "f16": (types.F16, types.F16),
        "q8_0": (types.Q8_0, types.Q8_0),
        "q4_k_m": (types.Q4_K, types.Q6_K),
    }[format_]
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield model.vocab_size * model.width, better
    yield model.width, types.F32
    for number in range(model.layers):
        chosen = better if matters_more(number, model.layers) else most
        for _ in range(2):
            yield model.width, types.F32
        if model.architecture == "qwen3":
            for _ in range(2):
                yield model.head_dim, types.F32
        yield model.width * query, most
        yield model.width * key, most
        yield model.width * key, chosen
        yield query * model.width, most
        yield model.width * model.ffn, most
        yield model.width * model.ffn, most
        yield model.ffn * model.width, chosen


def matters_more(block: int, blocks: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and the last eighth, and every third in between."""
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


def tensor_bytes(count: int, type_: gguf.GGMLQuantizationType) -> int:
    """Bytes of so many numbers; rows are whole blocks, which the settings see to."""
    numbers, size = gguf.GGML_QUANT_SIZES[type_]
    return int(count // numbers * size)


def padded(size: int) -> int:
    """Up to where the next tensor begins."""
    return int(-(-size // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT)
