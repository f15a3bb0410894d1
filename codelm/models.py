"""Presets → stock transformers models, and exact counts of what they hold and cost."""

from pathlib import Path
from typing import Any

from codelm.config.model import ModelConfig
from codelm.errors import UserError
from codelm.stage import file_sha256


def parameter_count(model: ModelConfig) -> int:
    """Parameters, the tied embedding counted once."""
    query, key_value = model.heads * model.head_dim, model.kv_heads * model.head_dim
    attention = model.width * (query + 2 * key_value) + query * model.width
    if model.architecture == "qwen3":
        attention += 2 * model.head_dim
    block = attention + 3 * model.width * model.ffn + 2 * model.width
    return model.vocab_size * model.width + model.layers * block + model.width


def flops_per_token(model: ModelConfig) -> int:
    """FLOPs of a training step per token: 6 per matrix parameter, the head's included, and attention.

    12 · layers · heads · head_dim · context_length for attention, not halved for causality (the convention of PaLM,
    arXiv 2204.02311, appendix B); of a sliding window, its length. The embedding lookup is free; its matrix is the head.
    """
    norms = (2 * model.layers + 1) * model.width
    if model.architecture == "qwen3":
        norms += 2 * model.layers * model.head_dim
    return 6 * (parameter_count(model) - norms) + 12 * model.layers * model.heads * model.head_dim * reach(model)


def reach(model: ModelConfig) -> int:
    """Tokens that a token sees back in one layer, itself included, at the end of the context."""
    return min(model.context_length, model.sliding_window or model.context_length)


def kv_bytes_per_token(model: ModelConfig) -> int:
    """Bytes of the KV cache that a token of the context takes in serving, in float16."""
    return 2 * 2 * model.layers * model.kv_heads * model.head_dim


def served(model: ModelConfig, context: int | None = None) -> ModelConfig:
    """The model as llama.cpp runs it, which has no sliding window for llama and qwen3.

    Within the window both see the same, so a model that was trained with one serves the window as its context. context: tokens
    to serve beyond the context that the model was trained with, by YaRN (arXiv 2309.00071) without further training. Raises
    UserError if that cannot work.
    """
    trained = reach(model)
    if context is None or context <= trained:
        changes: dict[str, Any] = {"context_length": context or trained, "sliding_window": None}
        return ModelConfig.model_validate(model.model_dump() | changes)
    scaling = model.rope_scaling
    if trained < model.context_length:
        raise UserError(
            f"a model with a sliding window of {trained} tokens cannot serve {context}: llama.cpp has no such window",
            f"serve at most {trained} tokens, or train without model.sliding_window",
        )
    if scaling and scaling.method == "linear":
        raise UserError(
            f"a model with linear rope_scaling cannot serve {context} tokens by YaRN",
            "train it further with --init and a larger rope_scaling.factor",
        )
    original = scaling.original_context if scaling and scaling.method == "yarn" else trained
    yarn = {"method": "yarn", "factor": context / original, "original_context": original}
    changes = {"context_length": context, "rope_theta": model.rope_base, "rope_scaling": yarn}
    return ModelConfig.model_validate(model.model_dump() | changes)


def serving_notes(model: ModelConfig, context: int | None = None) -> list[str]:
    """What a model's context means for serving it, a sentence each; the first is its cost in memory.

    context: tokens to serve, if not those of the training. Raises UserError if that cannot work.
    """
    tokens = served(model, context).context_length
    notes = [f"{tokens:,} tokens of served context take a KV cache of {tokens * kv_bytes_per_token(model) / 1e6:,.1f} MB"]
    if reach(model) < model.context_length:
        notes.append(
            f"llama.cpp has no sliding window for {model.architecture}: the export serves the {reach(model):,} tokens of the"
            f" window, of a context of {model.context_length:,}"
        )
    if tokens > model.context_length:
        notes.append(
            f"the model was trained on {model.context_length:,} tokens; YaRN reaches {tokens:,} without training and changes"
            " short prompts a little too: measure both"
        )
    return notes


def rope_parameters(model: ModelConfig) -> dict[str, Any]:
    """RoPE as a transformers configuration states it."""
    scaling, base = model.rope_scaling, model.rope_base
    if scaling is None or scaling.method == "ntk":
        return {"rope_type": "default", "rope_theta": base}
    parameters = {"rope_type": scaling.method, "rope_theta": base, "factor": scaling.factor}
    return parameters | ({"original_max_position_embeddings": scaling.original_context} if scaling.method == "yarn" else {})


def transformers_config(model: ModelConfig, endoftext: int, pad: int) -> Any:
    """The stock `transformers` configuration of a shape: Llama, with a sliding window Mistral (Llama with one), or Qwen3."""
    from transformers import LlamaConfig, MistralConfig, Qwen3Config

    config_class: Any = Qwen3Config if model.architecture == "qwen3" else MistralConfig if model.sliding_window else LlamaConfig
    window: dict[str, Any] = {"sliding_window": model.sliding_window} if model.sliding_window else {}
    if window and model.architecture == "qwen3":
        window |= {"use_sliding_window": True, "max_window_layers": 0}
    return config_class(
        vocab_size=model.vocab_size,
        hidden_size=model.width,
        intermediate_size=model.ffn,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.context_length,
        rms_norm_eps=model.norm_eps,
        rope_parameters=rope_parameters(model),
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=endoftext,
        pad_token_id=pad,
        **window,
    )


def build_model(model: ModelConfig, endoftext: int, pad: int, seed: int = 0) -> Any:
    """A freshly initialised causal language model of transformers in float32, a function of the seed."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(transformers_config(model, endoftext, pad), dtype=torch.float32)


def weight_shapes(config: Any) -> dict[str, list[int]]:
    """Name → shape of each weight that a checkpoint of a transformers configuration holds, the tied head once."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def load_model(checkpoint: Path, dtype: Any = "float32", device: Any = "cpu", quantization: Any = None) -> Any:
    """The model of a checkpoint in Hugging Face layout.

    dtype, device: torch's, or their names. quantization: from `bitsandbytes_config`. Raises UserError if the checkpoint is
    damaged, torch.OutOfMemoryError if the device is too small.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, local_files_only=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own
        raise unreadable(checkpoint, error) from error
    return model if quantization else model.to(device)


def bitsandbytes_config(bits: int, dtype: Any, option: str) -> Any:
    """How transformers is to load a model whose linear layers bitsandbytes holds in 8 or 4 bits.

    LLM.int8() (arXiv 2208.07339), or NF4 with scales that are quantised too (arXiv 2305.14314). dtype: torch's, in which
    4 bits are computed. option: that the user asked with. Raises UserError if bitsandbytes is missing.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(f"{option} needs the package bitsandbytes", "pip install 'codelm[qlora]', or leave that off") from error
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def fast_dtype(device: Any) -> Any:
    """What a torch.device computes in fastest: bfloat16 where it has instructions for it, else float32, on old GPUs float16."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32


def unreadable(checkpoint: Path, error: Exception) -> UserError:
    """What to say of a checkpoint that raised an error when it was read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{checkpoint} is not a readable checkpoint ({reason})", "train it again, or give another one")


WEIGHT_SETTINGS = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "ffn",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
}
"""What weights mean depends on these settings: name in a transformers configuration → name in ours."""


def check_weights_fit(checkpoint: Path, model: ModelConfig) -> None:
    """Raises UserError if the weights of a checkpoint cannot go on as this model, saying what differs, or if it is damaged.

    Settings of the context may differ: context_length, rope_theta, rope_scaling and sliding_window.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    ours = transformers_config(model, 0, 0)
    try:
        theirs = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
        with safe_open(checkpoint / "model.safetensors", "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as error:  # safetensors, json and transformers each raise their own
        raise unreadable(checkpoint, error) from error
    differing = [
        f"{our_name} {getattr(theirs, name, None)} ≠ {getattr(ours, name)}"
        for name, our_name in WEIGHT_SETTINGS.items()
        if getattr(theirs, name, None) != getattr(ours, name)
    ]
    if not differing:
        expected = weight_shapes(ours)
        if shapes != expected:
            kind = f"{theirs.model_type} ≠ {ours.model_type}"
            differing = [kind, *sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name))[:2]]
    if differing:
        raise UserError(
            f"{checkpoint} has another shape than this model ({', '.join(differing)})",
            "give a checkpoint of the same shape; only context_length, rope_theta, rope_scaling and sliding_window may change",
        )


def weights_sha256(checkpoint: Path) -> str:
    """Identity of a checkpoint's weights. Raises UserError if it has none."""
    try:
        return file_sha256(checkpoint / "model.safetensors")
    except OSError as error:
        raise UserError(f"{checkpoint} holds no model.safetensors", "give the folder of a checkpoint") from error
