"""Single-line exact match: the cursor stands somewhere in a line of a held-out file; is the rest of it foretold?"""

from typing import Any, NamedTuple

import numpy as np
import torch

from codelm import fim
from codelm.tokenizer import Tokenizer

BATCH = 16
SHORTEST_REST = 3
"""Characters: a closing bracket alone is no completion to be proud of."""
NEW_TOKENS = 32


class Place(NamedTuple):
    """A cursor in a file, and what stands between it and the end of its line."""

    prefix: str
    rest: str
    suffix: str


def draw_places(texts: list[str], count: int, seed: int) -> list[Place]:
    """Cursors in lines drawn alike over all texts, behind the indentation, at least SHORTEST_REST characters before the end."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    lines = [
        (number, begin + len(line) - len(line.lstrip()), begin + len(line.rstrip()))
        for number, text in enumerate(texts)
        for begin, line in lines_of(text)
        if len(line.strip()) >= SHORTEST_REST
    ]
    chosen = random.permutation(len(lines))[:count]
    places = []
    for index in chosen:
        number, begin, end = lines[index]
        cursor = int(random.integers(begin, end - SHORTEST_REST + 1))
        places.append(Place(texts[number][:cursor], texts[number][cursor:end], texts[number][end:]))
    return places


def lines_of(text: str) -> list[tuple[int, str]]:
    """Where each line begins, and the line without its break."""
    found, begin = [], 0
    for line in text.split("\n"):
        found.append((begin, line))
        begin += len(line) + 1
    return found


def prompt_of(place: Place, tokenizer: Tokenizer, length: int) -> list[int]:
    """The SPM prompt of a place: a quarter of the window for what follows, the rest for what precedes the cursor."""
    room = length - fim.OVERHEAD - NEW_TOKENS
    # about four characters a token: no need to encode a whole file
    suffix = tokenizer.encode(place.suffix[: room * 8])[: room // 4]
    prefix = tokenizer.encode(place.prefix[-room * 16 :])[-(room - len(suffix)) :]
    return fim.prompt(tokenizer.fim, fim.Order.SPM, prefix, suffix)


@torch.no_grad()
def exact_match(model: Any, tokenizer: Tokenizer, places: list[Place]) -> float:
    """The share of places whose rest of the line is written exactly, greedily, white space at the end aside.

    model: a transformers causal language model.
    """
    model.eval()
    length = model.config.max_position_embeddings
    prompts = sorted(((prompt_of(place, tokenizer, length), place.rest) for place in places), key=lambda pair: len(pair[0]))
    hits = 0
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(len(ids) for ids, _ in batch)
        pad = tokenizer.fim.fim_pad
        ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids, _ in batch])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in batch])
        answer = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=pad
        )
        for written, (_, rest) in zip(answer[:, longest:].tolist(), batch, strict=True):
            line = tokenizer.decode(written).decode(errors="replace").split("\n")[0]
            hits += line.rstrip() == rest.rstrip()
    return hits / len(places)
