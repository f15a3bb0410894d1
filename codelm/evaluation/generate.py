"""A model's own line at a place: greedy, in the served prompt order, many places at once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from codelm import fim
from codelm.evaluation.places import Place
from codelm.tokenizer import Tokenizer

NEW_TOKENS = 32
BATCH_TOKENS = 16_384
"""Prompt tokens that are read at once: their keys and values are held in memory."""
SPARSE = 0.75
"""Rows whose line is written are taken out of a batch when no more than this share of it still writes: taking them out
copies the whole cache."""


def prompt_of(place: Place, tokenizer: Tokenizer, length: int) -> list[int]:
    """The SPM prompt of a place: a quarter of the window for what follows, the rest for what precedes the cursor."""
    room = length - fim.OVERHEAD - NEW_TOKENS
    # about four characters a token: no need to encode a whole file
    suffix = tokenizer.encode(place.suffix[: room * 8])[: room // 4]
    prefix = tokenizer.encode(place.prefix[-room * 16 :])[-(room - len(suffix)) :]
    return fim.prompt(tokenizer.fim, fim.Order.SPM, prefix, suffix)


@torch.no_grad()
def write_lines(model: Any, tokenizer: Tokenizer, places: Sequence[Place]) -> list[str]:
    """What the model writes at each place, at most NEW_TOKENS tokens, up to the end of the line or of the text.

    As it is served: a token that the cursor cuts is taken back and spelled again (codelm/healing.py). model: a transformers
    causal language model. Its mode and its attention are afterwards what they were.
    """
    length = model.config.max_position_embeddings
    backed_up = [tokenizer.healer.back_up(prompt_of(place, tokenizer, length)) for place in places]
    prompts, typed = [prompt for prompt, _ in backed_up], [text for _, text in backed_up]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # rows of one length need little padding
    ends = torch.tensor([b"\n" in text or not text for text in tokenizer.token_bytes])
    lines = [""] * len(prompts)
    with ready_to_write(model):
        while order:
            # the last is the longest: so many rows of its length fit
            rows = order[-max(1, BATCH_TOKENS // len(prompts[order[-1]])) :]
            del order[-len(rows) :]
            written = continuations(model, [prompts[row] for row in rows], [typed[row] for row in rows], ends, tokenizer)
            for row, ids in zip(rows, written, strict=True):
                lines[row] = tokenizer.decode(ids)[len(typed[row]) :].decode(errors="replace").split("\n")[0]
    return lines


def continuations(
    model: Any, prompts: list[list[int]], typed: list[bytes], ends: torch.Tensor, tokenizer: Tokenizer
) -> list[list[int]]:
    """The likeliest next token after each prompt, again and again, up to the first in `ends`.

    typed: what the first tokens of each have to spell. ends: (vocabulary,) bool. Shorter prompts are padded on the left, which
    the model does not see.
    """
    device = next(model.parameters()).device
    healer, remaining = tokenizer.healer, list(typed)
    longest, pad = max(map(len, prompts)), tokenizer.fim.fim_pad
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    padded = bool(starts.any())  # without padding torch takes its faster, purely causal kernel
    mask = (torch.arange(longest, device=device) >= starts[:, None]).long() if padded else None
    positions = (torch.arange(longest, device=device) - starts[:, None]).clamp(min=0)
    cache = DynamicCache(config=model.config)
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    writing = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(NEW_TOKENS):
        answer = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1
        )
        token = answer.logits[:, -1].argmax(-1)
        for at, row in enumerate(rows.tolist()):
            if remaining[row]:
                allowed = torch.tensor(healer.allowed(remaining[row]), dtype=torch.long, device=device)
                token[at] = allowed[answer.logits[at, -1, allowed].argmax()]
                remaining[row] = healer.consume(remaining[row], int(token[at]))
        for row, going_on, next_id in zip(rows.tolist(), writing.tolist(), token.tolist(), strict=True):
            if going_on:
                written[row].append(next_id)
        writing &= ~ends[token.cpu()]
        if not writing.any():
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if writing.float().mean() <= SPARSE:
            kept = writing.nonzero().flatten()
            rows, writing = rows[kept], writing[kept]
            kept = kept.to(device)
            ids, positions, mask = ids[kept], positions[kept], mask if mask is None else mask[kept]
            cache.batch_select_indices(kept)
    return written


@contextlib.contextmanager
def ready_to_write(model: Any) -> Iterator[None]:
    """Evaluation mode, with an attention that knows caches and padding; that of training may know neither."""
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)
