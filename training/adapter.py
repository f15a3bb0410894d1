"""Low-rank adapters in a transformers model, by PEFT: laid in, written in PEFT's layout, read back, merged."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from codelm.config.lora import LoraConfig
from codelm.models import load_model

NAME = "default"
"""Of the adapter in its model, by PEFT's custom."""
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before each name in PEFT's files."""


def add_adapter(model: Any, config: LoraConfig, base: Path, seed: int) -> None:
    """Freezes a model and lays an adapter into its linear layers, in place.

    The adapter is a function of the seed, and has no effect before it is trained. base: where the model came from, for those
    who load the adapter later.
    """
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model, NAME)


def has_adapter(model: Any) -> bool:
    """Whether it is only an adapter that is trained of a model."""
    return NAME in getattr(model, "peft_config", {})


def write_adapter(folder: Path, model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes adapter_model.safetensors and adapter_config.json. weights: by the names of the model's parameters."""
    tensors = {PREFIX + name.replace(f".{NAME}.", "."): tensor.contiguous() for name, tensor in weights.items()}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    model.peft_config[NAME].save_pretrained(folder)


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter by the names of its model's parameters."""
    tensors = load_file(folder / WEIGHTS)
    return {name.removeprefix(PREFIX).replace(".weight", f".{NAME}.weight"): tensor for name, tensor in tensors.items()}


def merged(base: Path, adapter: Path) -> Any:
    """The base in float32 with the adapter's updates added to its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in its old way whether it checkpoints
        return peft.PeftModel.from_pretrained(load_model(base), str(adapter)).merge_and_unload()
