"""Bits per byte: cross-entropy that does not depend on the tokenizer."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer

LOGITS = 2**24
"""Logits that are held at once, 64 MB in float32, three times over; of one window at least."""
Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def bits_per_byte(model: Any, shard: TokenShard, tokenizer: Tokenizer, max_tokens: int) -> float:
    """−log2 p of the text, over its bytes, read left to right in windows of the model's context.

    model: a transformers causal language model. Which windows: see `windows_of`. The first token of a window is not counted,
    nor is <|endoftext|>.
    """
    windows = windows_of(shard, tokenizer, model.config.max_position_embeddings, max_tokens)
    bits, bytes_ = by_window(nats_of(model, windows), windows, tokenizer)
    return float(bits.sum()) / max(int(bytes_.sum()), 1)


def windows_of(shard: TokenShard, tokenizer: Tokenizer, length: int, max_tokens: int) -> Ids:
    """(windows, length) ids, spread evenly over the documents, laid end to end with <|endoftext|> between them.

    As many windows as `max_tokens` fill, one at least; one that is shorter if there is less text.
    """
    ends = shard.offsets[1:] + np.arange(1, len(shard) + 1)  # of the documents in that stream, <|endoftext|> included
    whole = max(1, int(ends[-1]) // length)
    count = min(whole, max(1, max_tokens // length))
    positions = np.linspace(0, whole - 1, count).astype(int)[:, None] * length + np.arange(min(length, ends[-1]))
    documents = np.searchsorted(ends, positions, side="right")
    stream = shard.ids[np.minimum(positions - documents, len(shard.ids) - 1)].astype(np.int64)
    return np.where(positions == ends[documents] - 1, tokenizer.fim.endoftext, stream)


@torch.no_grad()
def nats_of(model: Any, windows: Ids) -> Floats:
    """−log p of each token of a window but the first, (windows, length − 1). model: its mode is afterwards what it was."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    losses = []
    batch = max(1, LOGITS // (windows.shape[1] * model.config.vocab_size))
    for start in range(0, len(windows), batch):
        ids = torch.from_numpy(windows[start : start + batch]).to(device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        losses.append(loss.reshape(len(ids), -1).cpu().double().numpy())
    model.train(was_training)
    return np.concatenate(losses)


def by_window(nats: Floats, windows: Ids, tokenizer: Tokenizer) -> tuple[Floats, Ids]:
    """Bits and bytes of each window, (windows,) each, of the tokens that have bytes. nats: (windows, length − 1)."""
    lengths = tokenizer.byte_lengths[windows[:, 1:]]
    return (nats * (lengths > 0)).sum(1) / math.log(2), lengths.sum(1)
