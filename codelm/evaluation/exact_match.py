"""How often a model writes exactly what stands in a file, and the light evaluation that is made of it."""

from collections.abc import Sequence
from typing import Any

from codelm.corpus.tokens import TokenShard
from codelm.evaluation.generate import write_lines
from codelm.evaluation.measures import edit_similarity, is_exact
from codelm.evaluation.places import draw_places
from codelm.tokenizer import Tokenizer


def light_evaluation(
    model: Any, tokenizer: Tokenizer, held_out: TokenShard | list[str], places: int = 128, seed: int = 0
) -> dict[str, Any]:
    """What a checkpoint is worth at infilling, in seconds: half of the places are whole lines, half ends of lines.

    model: a transformers causal language model, neither compiled nor wrapped; its mode and its attention stay as in training.
    held_out: texts, or a shard of them. The same seed gives the same places, so the checkpoints of a run compare.

    Returns "exact_match" (over all places, 0 to 1), "whole_line_match", "end_of_line_match" and "edit_similarity", each None
    where the texts have no line to complete, and "places", how many there were. Exact match of a hundred places is a rough
    figure: ± 5 points at 10 %. Edit similarity is finer.
    """
    texts = held_out if isinstance(held_out, list) else texts_of(held_out, tokenizer)
    whole, ends = (draw_places(texts, places // 2, seed, whole_line) for whole_line in (True, False))
    lines = write_lines(model, tokenizer, [*whole, *ends])
    hits = list(map(is_exact, lines, [*whole, *ends]))
    similarities = list(map(edit_similarity, lines, [*whole, *ends]))
    return {
        "exact_match": mean(hits),
        "whole_line_match": mean(hits[: len(whole)]),
        "end_of_line_match": mean(hits[len(whole) :]),
        "edit_similarity": mean(similarities),
        "places": len(lines),
    }


def texts_of(shard: TokenShard, tokenizer: Tokenizer) -> list[str]:
    """The documents of a shard."""
    return [
        tokenizer.decode(shard.ids[first:last].tolist()).decode()
        for first, last in zip(shard.offsets[:-1], shard.offsets[1:], strict=True)
    ]


def mean(values: Sequence[float]) -> float | None:
    """The mean to four digits, None of nothing."""
    return round(sum(values) / len(values), 4) if values else None
