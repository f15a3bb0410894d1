"""Bits per byte: cross-entropy that does not depend on the tokenizer."""

import math
from typing import Any

import numpy as np
import torch

from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer

BATCH = 8


@torch.no_grad()
def bits_per_byte(model: Any, shard: TokenShard, tokenizer: Tokenizer, max_tokens: int) -> float:
    """−log2 p of the text, over its bytes, read left to right in windows of the model's context.

    model: a transformers causal language model. The windows are spread evenly over the documents, laid end to end with
    <|endoftext|> between them, until `max_tokens` are read. The first token of a window is not counted, nor is <|endoftext|>.
    """
    length = model.config.max_position_embeddings
    device = next(model.parameters()).device
    documents = [shard.ids[first:last] for first, last in zip(shard.offsets[:-1], shard.offsets[1:], strict=True)]
    stream = np.concatenate([np.append(ids, tokenizer.fim.endoftext) for ids in documents]).astype(np.int64)
    whole = max(1, len(stream) // length)
    count = min(whole, max(1, max_tokens // length))
    windows = [stream[i * length : (i + 1) * length] for i in np.linspace(0, whole - 1, count).astype(int)]
    byte_length = torch.tensor([len(piece) for piece in tokenizer.token_bytes])
    nats, bytes_ = 0.0, 0
    was_training = model.training
    model.eval()
    for start in range(0, len(windows), BATCH):
        ids = torch.from_numpy(np.stack(windows[start : start + BATCH]))
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten().to(device), reduction="none")
        lengths = byte_length[targets.flatten()]
        nats += (losses.cpu().double() * (lengths > 0)).sum().item()
        bytes_ += int(lengths.sum())
    model.train(was_training)
    return nats / math.log(2) / max(bytes_, 1)
