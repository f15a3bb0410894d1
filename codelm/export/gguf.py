"""A transformers checkpoint as a GGUF file, by the `gguf` package, in the tensor layout that llama.cpp reads."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from codelm import __version__
from codelm.config.model import ModelConfig
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.fim import SPECIAL_TOKENS
from codelm.tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float32]
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
SHAPE = {
    gguf.Keys.LLM.CONTEXT_LENGTH: "context_length",
    gguf.Keys.LLM.EMBEDDING_LENGTH: "width",
    gguf.Keys.LLM.BLOCK_COUNT: "layers",
    gguf.Keys.LLM.FEED_FORWARD_LENGTH: "ffn",
    gguf.Keys.Attention.HEAD_COUNT: "heads",
    gguf.Keys.Attention.HEAD_COUNT_KV: "kv_heads",
    gguf.Keys.Attention.KEY_LENGTH: "head_dim",
    gguf.Keys.LLM.VOCAB_SIZE: "vocab_size",
}
"""Key of a GGUF file, after its architecture → name in `ModelConfig`; by it files are written and read back."""


def write_f16(
    path: Path, model: ModelConfig, tokenizer: Tokenizer, tensors: Mapping[str, FloatArray], metadata: BundleMetadata
) -> None:
    """Writes matrices in float16 and norms in float32.

    model: as it is served (`codelm.models.served`). tensors: Hugging Face name → float32 array, as in the state dict of a
    `LlamaForCausalLM`, `MistralForCausalLM` or `Qwen3ForCausalLM`. The tied head is left out: llama.cpp takes the embedding
    for it.
    """
    writer = gguf.GGUFWriter(str(path), model.architecture)
    add_hyperparameters(writer, model, metadata)
    add_vocabulary(writer, tokenizer)
    for key, value in metadata.to_gguf().items():
        writer.add_string(key, value)
    for name, tensor in sorted(tensors.items()):
        if name == "lm_head.weight":
            continue
        rows = in_row_order(model, name, tensor)
        writer.add_tensor(tensor_name(model, name), rows if rows.ndim == 1 else rows.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_name(model: ModelConfig, name: str) -> str:
    """What llama.cpp calls a tensor of transformers. Raises ValueError if its architecture has no such tensor."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[model.architecture], model.layers)
    gguf_name = names.get_name(name, try_suffixes=(".weight",))
    if gguf_name is None:
        raise ValueError(f"{model.architecture} has no tensor {name}")
    return str(gguf_name)


def in_row_order(model: ModelConfig, name: str, tensor: FloatArray) -> FloatArray:
    """A tensor whose rows are the outputs of the layer `name` of transformers, in the order that llama.cpp wants."""
    return interleave_rope_pairs(tensor, model.head_dim) if has_rope_pairs(model, name) else tensor


def in_transformers_order(model: ModelConfig, name: str, rows: FloatArray) -> FloatArray:
    """What `in_row_order` was given."""
    return part_rope_pairs(rows, model.head_dim) if has_rope_pairs(model, name) else rows


def has_rope_pairs(model: ModelConfig, name: str) -> bool:
    """Whether llama.cpp wants the rows of a tensor of transformers in another order."""
    return model.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight"))


def add_hyperparameters(writer: Any, model: ModelConfig, metadata: BundleMetadata) -> None:
    """The architecture's own keys."""
    writer.add_name(f"codelm-{metadata.name}")
    writer.add_description(f"code completion model, made by codelm {__version__}")
    for key, name in SHAPE.items():
        writer.add_uint32(key.format(arch=model.architecture), getattr(model, name))
    writer.add_value_length(model.head_dim)
    writer.add_rope_dimension_count(model.head_dim)
    add_rope(writer, model)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_rope(writer: Any, model: ModelConfig) -> None:
    """RoPE and its scaling. llama.cpp knows linear and YaRN, whose attention factor it computes as transformers does."""
    writer.add_rope_freq_base(model.rope_base)
    scaling = model.rope_scaling
    if scaling is not None and scaling.method != "ntk":
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.method))
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)


def add_vocabulary(writer: Any, tokenizer: Tokenizer) -> None:
    """The byte-level BPE under the name of its pre-tokeniser, and what each special token is for."""
    tokens, merges = tokenizer.vocabulary()
    types = [token_type(token, text) for token, text in zip(tokens, tokenizer.token_bytes, strict=True)]
    fim = tokenizer.fim
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.gguf_pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_bos_token_id(fim.endoftext)
    writer.add_eos_token_id(fim.endoftext)
    writer.add_pad_token_id(fim.fim_pad)
    for key, id_ in {
        "fim_pre": fim.fim_prefix,
        "fim_suf": fim.fim_suffix,
        "fim_mid": fim.fim_middle,
        "fim_pad": fim.fim_pad,
        "fim_rep": fim.repo_name,
        "fim_sep": fim.file_sep,
    }.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", id_)


def token_type(token: str, text: bytes) -> Any:
    """What llama.cpp shall take a token for; CONTROL tokens are never parsed from a user's text."""
    if token in SPECIAL_TOKENS:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.NORMAL if text else gguf.TokenType.UNUSED


def interleave_rope_pairs(weight: FloatArray, head_dim: int) -> FloatArray:
    """Query or key rows in the order of llama.cpp's `llama` architecture.

    weight: (heads · head_dim, columns). transformers turns the pairs (i, i + head_dim/2), ggml's NORM RoPE (2i, 2i + 1).
    """
    heads = weight.shape[0] // head_dim
    return weight.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def part_rope_pairs(weight: FloatArray, head_dim: int) -> FloatArray:
    """What `interleave_rope_pairs` was given."""
    heads = weight.shape[0] // head_dim
    return weight.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The `gguf.GGUFReader` of a file. Raises UserError, also for what goes wrong while it is read, if it is no whole GGUF."""
    try:
        yield gguf.GGUFReader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give the path of a .gguf file") from None
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error})", "export or copy it again") from None
