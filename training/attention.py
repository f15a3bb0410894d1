"""Causal attention for training on a CPU, in blocks of queries that see only the keys before their end.

torch's flash kernel for CPUs gains nothing from bf16. Plain products over blocks do, skip most of what the mask would
throw away, share the keys among a group of query heads without copying them, and let the compiler fuse the softmax: two
thirds of the time of `scaled_dot_product_attention` at 512 tokens (docs/decisions.md).
"""

from typing import Any

import torch
from transformers import AttentionInterface

NAME = "codelm_cpu_blocks"
BLOCK = 128
LONGEST = 1024
"""Tokens; the scores of a block are held in full, which a long context would make too large."""


def block_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls.

    query: (batch, heads, length, head_dim). key, value: (batch, kv_heads, length, head_dim). Returns (batch, length, heads,
    head_dim) and no weights. Without a cache, without padding: the mask is the causal one.
    """
    batch, groups, length, width = key.shape
    query = query.reshape(batch, groups, -1, length, width)
    outputs = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        block = query[:, :, :, start:end].flatten(2, 3)
        scores = (block @ key[:, :, :end].transpose(-1, -2)).float() * scaling
        scores = scores.reshape(batch, groups, -1, end - start, end)
        seen = torch.arange(end, device=query.device) <= torch.arange(start, end, device=query.device)[:, None]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype)
        outputs.append((weights.flatten(2, 3) @ value[:, :, :end]).reshape(batch, groups, -1, end - start, width))
    # (batch, groups, heads of a group, length, head_dim) → (batch, length, heads, head_dim)
    return torch.cat(outputs, dim=3).flatten(1, 2).transpose(1, 2), None


AttentionInterface.register(NAME, block_causal_attention)
