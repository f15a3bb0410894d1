"""Causal attention for training: four functions that compute the same thing, and the choice among them.

They are registered with transformers under names of our own, because of the mask that it makes for "sdpa": compiled, always
the whole one, since its shortcut is off while a graph is traced, and a mask keeps the flash kernels away. What keeps documents
apart is computed once for a micro-batch (`documents_of`), not in each layer.

Generation, whose queries are fewer than its keys and which may pad, goes the way of `sdpa`.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from codelm.config.pretrain import PretrainConfig
from codelm.errors import UserError
from training.dropout import add_dropout

BLOCK = 128
LONGEST = 1024
"""Tokens; `blocks` holds the scores of a block in full, which a long context would make too large."""
HALF = (torch.bfloat16, torch.float16)
Output = tuple[torch.Tensor, None]


def choose_attention(
    device: torch.device,
    context: int,
    *,
    document_mask: bool = False,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    half: bool = True,
    requested: str = "auto",
) -> str:
    """The function to train with: blocks, sdpa, flash_attention_2 or varlen.

    context: tokens of a sample. dropout: of attention weights. half: whether it is computed in bfloat16 or float16.
    requested: one of these names, or auto: on a CPU `blocks` up to LONGEST tokens; on a GPU the flash kernel of `sdpa`, where a
    mask would keep that away the varlen kernels, and `sdpa` with its mask only where these are not to be had. Raises UserError
    if what is requested cannot work here.
    """
    if requested != "auto":
        if error := why_not(requested, device, context, dropout, half):
            raise error
        return requested
    masked = document_mask or (sliding_window or context) < context
    candidates = ("varlen", "flash_attention_2", "sdpa") if masked and device.type == "cuda" else ("blocks", "sdpa")
    return next(name for name in candidates if why_not(name, device, context, dropout, half) is None)


def prepare(model: Any, config: PretrainConfig, device: torch.device, half: bool) -> str:
    """Gives a transformers model the attention and the dropout of a training; returns the name of its attention.

    half: whether it is computed in bfloat16 or float16. Raises UserError if what is asked for cannot work here.
    """
    name = choose_attention(
        device,
        model.config.max_position_embeddings,
        document_mask=config.data.document_mask,
        sliding_window=getattr(model.config, "sliding_window", None),
        dropout=config.attention_dropout,
        half=half,
        requested=config.engine.attention,
    )
    model.set_attn_implementation(registered(name))
    add_dropout(model, config.dropout, config.attention_dropout)
    return name


def why_not(name: str, device: torch.device, context: int, dropout: float, half: bool, here: bool = True) -> UserError | None:
    """What stands against computing attention by the function of that name, with the fix; None if nothing does.

    here: whether on this machine; a GPU elsewhere is taken for a new one, with all packages that it needs.
    """
    asked = f"engine.attention {name}"
    if name == "blocks" and device.type != "cpu":
        return UserError(f"{asked} is for CPUs", "set engine.attention to auto")
    if name == "blocks" and context > LONGEST:
        return UserError(f"{asked} is for contexts of at most {LONGEST} tokens", "set engine.attention to auto")
    if name in ("varlen", "flash_attention_2"):
        old = here and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)
        if device.type != "cuda" or old:
            return UserError(f"{asked} needs an NVIDIA GPU, A100, RTX 30 or newer", "set engine.attention to auto")
        if not half:
            return UserError(f"{asked} computes in bf16 or fp16 only", "set engine.precision to bf16")
    if name == "varlen" and dropout:
        return UserError(
            f"{asked} has no dropout", "set pretrain.attention_dropout to 0, or engine.attention to flash_attention_2"
        )
    if name == "flash_attention_2" and here and importlib.util.find_spec("flash_attn") is None:
        return UserError(
            f"{asked} needs the package flash-attn",
            "pip install flash-attn --no-build-isolation, or set engine.attention to varlen, which torch has",
        )
    return None


def registered(name: str) -> str:
    """What transformers calls the function of that name."""
    return f"codelm_{name}"


def documents_of(name: str, positions: torch.Tensor) -> torch.Tensor:
    """What the function of that name must know to keep the documents of a micro-batch apart.

    positions: (batch, length), counted from 0 at the beginning of each document; on the host, so that no GPU is waited for.
    Of blocks and sdpa: where in its row each token's document begins, (batch, length) int64. Of the others: where in the rows
    laid end to end each document begins, and their end, (documents + 1,) int32.
    """
    if name in ("blocks", "sdpa"):
        return torch.arange(positions.shape[-1]) - positions
    begins = positions == 0
    begins[:, 0] = True
    return F.pad(begins.flatten().nonzero()[:, 0], (0, 1), value=positions.numel()).to(torch.int32)


def model_inputs(model: Any, positions: torch.Tensor, documents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Further arguments of a transformers model, so that its documents are as if each were alone.

    positions: (batch, length). documents: from `documents_of`. The mask of sdpa is made here, once for all layers; it takes
    batch · length² bytes.
    """
    arguments = {"position_ids": positions, "documents": documents}
    if model.config._attn_implementation == registered("sdpa"):
        window = getattr(model.config, "sliding_window", None)
        length = positions.shape[-1]
        arguments["attention_mask"] = visible(length, length, window, documents.device, documents)
    return arguments


def visible(
    queries: int, keys: int, window: int | None, device: torch.device, begins: torch.Tensor | None = None
) -> torch.Tensor:
    """Which of the keys each of the last `queries` positions sees: bool (queries, keys), or (batch, 1, queries, keys).

    begins: (batch, queries), the first key that a query may see.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)
    seen = key <= query
    if window is not None and window < keys:
        seen = seen & (key > query - window)
    return seen if begins is None else seen & (key >= begins[:, None, :, None])


def narrow(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors in the type that autocast computes in: RoPE answers in float32, and kernels want one type."""
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[-1].dtype
    return [tensor.to(dtype) for tensor in tensors]


def sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> Output:
    """torch's own function: with its flash kernels, if no mask is wanted.

    As transformers calls it. query: (batch, heads, queries, head_dim). key, value: (batch, kv_heads, keys, head_dim).
    attention_mask: None, which keys are no padding, (batch, keys), or what each query sees, (batch, 1, queries, keys) bool.
    Returns (batch, queries, heads, head_dim) and no weights.
    """
    queries, keys = query.shape[2], key.shape[2]
    mask = attention_mask
    if mask is None and (queries != keys or (sliding_window or keys) < keys):
        mask = visible(queries, keys, sliding_window, query.device)
    elif mask is not None and mask.ndim == 2:
        mask = visible(queries, keys, sliding_window, query.device) & mask[:, None, None, -keys:].bool()
    query, key, value = narrow(query, key, value)
    if mask is not None:  # the kernels that take one know no groups
        key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    output = F.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=mask is None
    )
    return output.transpose(1, 2), None


def blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    documents: torch.Tensor | None = None,
    **kwargs: Any,
) -> Output:
    """Plain products over blocks of queries, each with the keys that its mask leaves. Arguments and result as of `sdpa`.

    torch's flash kernel for CPUs gains nothing from bf16. This does, skips most of what the mask would throw away, shares
    the keys among a group of query heads without copying them, and lets the compiler fuse the softmax: two thirds of the time
    of `scaled_dot_product_attention` at 512 tokens (docs/decisions.md). documents: from `documents_of`.
    """
    batch, groups, length, width = key.shape
    if attention_mask is not None or query.shape[2] != length:
        return sdpa(module, query, key, value, attention_mask, scaling, dropout, sliding_window)
    query = query.reshape(batch, groups, -1, length, width)
    outputs = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        first = max(0, start - sliding_window + 1) if sliding_window else 0
        block = query[:, :, :, start:end].flatten(2, 3)
        scores = (block @ key[:, :, first:end].transpose(-1, -2)).float() * scaling
        scores = scores.reshape(batch, groups, -1, end - start, end - first)
        begins = None if documents is None else documents[:, start:end] - first
        seen = visible(end - start, end - first, sliding_window, query.device, begins)
        seen = seen if begins is None else seen[:, :, None]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        weights = (F.dropout(weights, dropout) if dropout else weights).to(value.dtype)
        outputs.append((weights.flatten(2, 3) @ value[:, :, first:end]).reshape(batch, groups, -1, end - start, width))
    # (batch, groups, heads of a group, length, head_dim) → (batch, length, heads, head_dim)
    return torch.cat(outputs, dim=3).flatten(1, 2).transpose(1, 2), None


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, tuple[int, int], float, float], torch.Tensor]
"""Of query, key and value, (tokens, heads, head_dim), where sequences end, the longest of them, the window to the left and to
the right, scale and dropout."""


def end_to_end(kernel: Kernel) -> Callable[..., Output]:
    """Attention by a flash kernel for sequences of any lengths, laid end to end. Arguments and result as of `blocks`."""

    def function(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        documents: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Output:
        query, key, value = narrow(query, key, value)
        if attention_mask is not None or query.shape[2] != key.shape[2] or query.dtype not in HALF:
            return sdpa(module, query, key, value, attention_mask, scaling, dropout, sliding_window)
        batch, heads, length, width = query.shape
        if documents is None:
            documents = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
        query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
        window = (sliding_window - 1 if sliding_window and sliding_window < length else -1, 0)
        # no document is longer than a row; the true maximum would have to be waited for
        output = kernel(query, key, value, documents, length, window, scaling, dropout)
        return output.view(batch, length, heads, width), None

    return function


def of_torch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    window: tuple[int, int],
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """torch's own flash kernel, which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scale, window_size=window, enable_gqa=True)
    assert isinstance(output, torch.Tensor)  # it has no auxiliary output, which nobody asked for
    return output


def of_flash_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    window: tuple[int, int],
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """The kernel of the package flash-attn."""
    from flash_attn import flash_attn_varlen_func

    options: dict[str, Any] = {"softmax_scale": scale, "causal": True, "window_size": window}
    return flash_attn_varlen_func(query, key, value, ends, ends, longest, longest, dropout, **options)


varlen, flash_attention_2 = end_to_end(of_torch), end_to_end(of_flash_attn)


def padding(attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """The mask that transformers shall make for these functions: none but what says which keys are no padding."""
    return attention_mask


for name, function in {"blocks": blocks, "sdpa": sdpa, "varlen": varlen, "flash_attention_2": flash_attention_2}.items():
    AttentionInterface.register(registered(name), function)
    AttentionMaskInterface.register(registered(name), padding)
