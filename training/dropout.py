"""Dropout in a stock transformers model: while it trains, under the names that its weights have."""

from typing import Any

import torch
import torch.nn.functional as F


def add_dropout(model: Any, residual: float, attention: float) -> None:
    """Makes a Llama, Mistral or Qwen3 drop out while it is in training mode.

    residual: share of what attention and FFN add to the residual stream. attention: share of the attention weights. What is
    drawn depends on torch's generator only, which the loop seeds for each micro-batch.
    """
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = attention
    if residual:
        for name, module in model.named_modules():
            if name.endswith((".self_attn.o_proj", ".mlp.down_proj")):
                module.register_forward_hook(lambda module, inputs, output: drop(module, output, residual))


def drop(module: torch.nn.Module, output: torch.Tensor, share: float) -> torch.Tensor:
    """A projection's output, with a share of it dropped while the projection trains."""
    return F.dropout(output, share, module.training)
