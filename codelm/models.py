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
    """FLOPs of a training step per token: 6 per matrix parameter, the head's included, and full attention.

    12 · layers · heads · head_dim · context_length for attention, not halved for causality (the convention of PaLM,
    arXiv 2204.02311, appendix B). The embedding lookup is free; its matrix is the head.
    """
    norms = (2 * model.layers + 1) * model.width
    if model.architecture == "qwen3":
        norms += 2 * model.layers * model.head_dim
    return 6 * (parameter_count(model) - norms) + 12 * model.layers * model.heads * model.head_dim * model.context_length


def transformers_config(model: ModelConfig, endoftext: int, pad: int) -> Any:
    """The `transformers` configuration (LlamaConfig or Qwen3Config) of a shape."""
    from transformers import LlamaConfig, Qwen3Config

    config_class = Qwen3Config if model.architecture == "qwen3" else LlamaConfig
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
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=endoftext,
        pad_token_id=pad,
    )


def build_model(model: ModelConfig, endoftext: int, pad: int, seed: int = 0) -> Any:
    """A freshly initialised `LlamaForCausalLM` or `Qwen3ForCausalLM` in float32, a function of the seed."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(transformers_config(model, endoftext, pad), dtype=torch.float32)


def load_model(checkpoint: Path) -> Any:
    """The model of a checkpoint in Hugging Face layout, in float32. Raises UserError if it is damaged."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32", local_files_only=True)
    except Exception as error:  # safetensors, json and transformers each raise their own
        raise unreadable(checkpoint, error) from error


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
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

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
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(ours)
        expected = {name: list(parameter.shape) for name, parameter in built.named_parameters()}
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
