"""The light evaluation of a checkpoint while its run goes on: bits per byte and infilling on held-out files."""

from functools import cached_property
from typing import Any

import numpy as np

from codelm.config.watch import WatchConfig
from codelm.corpus.tokens import TokenShard
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.evaluation.exact_match import Place, draw_places, exact_match
from codelm.tokenizer import Tokenizer

BITS_PER_BYTE, EXACT_MATCH = "valid_bits_per_byte", "valid_exact_match"
"""Their names in the log."""
SEED = 0
"""All runs on the same tokens are asked at the same places, so that their scores compare."""


class Evaluation:
    """Scores a model; the places are drawn once."""

    def __init__(self, config: WatchConfig, valid: TokenShard, tokenizer: Tokenizer) -> None:
        """valid: held-out documents."""
        self.config = config
        self.valid = valid
        self.tokenizer = tokenizer

    @cached_property
    def places(self) -> list[Place]:
        """Cursors in documents drawn alike, whose text is read back from their tokens."""
        random = np.random.Generator(np.random.Philox(key=[SEED, 1]))
        documents = sorted(random.permutation(len(self.valid))[: self.config.evaluation_places])
        texts = [
            self.tokenizer.decode(self.valid.ids[self.valid.offsets[i] : self.valid.offsets[i + 1]].tolist()).decode(
                errors="replace"
            )
            for i in documents
        ]
        return draw_places(texts, self.config.evaluation_places, SEED)

    def __call__(self, model: Any) -> dict[str, float]:
        """model: a transformers causal language model. Without a place to complete there is no exact match."""
        scores = {BITS_PER_BYTE: bits_per_byte(model, self.valid, self.tokenizer, self.config.evaluation_tokens)}
        if self.places:
            scores[EXACT_MATCH] = exact_match(model, self.tokenizer, self.places)
        return scores


def is_due(step: int, steps: int, config: WatchConfig) -> bool:
    """Whether the checkpoint after `step` of `steps` is one to evaluate.

    `evaluations` of them are spread over the run; where that is rarer than every `checkpoint_steps`, the latter counts. The
    last step is among them, unless neither is asked for.
    """
    every, count = config.checkpoint_steps, config.evaluations
    if every is not None and every * count < steps:
        return step % every == 0 or step == steps
    return step * count // steps > (step - 1) * count // steps


def rank(row: dict[str, Any]) -> tuple[float, float]:
    """The order of evaluated checkpoints, the best one highest: by infilling, then by bits per byte."""
    return row.get(EXACT_MATCH, 0.0), -row[BITS_PER_BYTE]
