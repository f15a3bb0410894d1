"""The light evaluation of a checkpoint while its run goes on: bits per byte and infilling on held-out files."""

from functools import cached_property
from typing import Any

import numpy as np

from codelm.config.watch import WatchConfig
from codelm.corpus.tokens import TokenShard
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.evaluation.exact_match import light_evaluation
from codelm.tokenizer import Tokenizer
from training.metrics import BITS_PER_BYTE, EDIT_SIMILARITY, EXACT_MATCH

SEED = 0
"""All runs on the same tokens are asked at the same places, so that their scores compare."""


class Evaluation:
    """Scores a model."""

    def __init__(self, config: WatchConfig, valid: TokenShard, tokenizer: Tokenizer) -> None:
        """valid: held-out documents."""
        self.config = config
        self.valid = valid
        self.tokenizer = tokenizer

    @cached_property
    def texts(self) -> list[str]:
        """Documents drawn alike, read back from their tokens, so that a training needs no corpus: one a place, if there are."""
        random = np.random.Generator(np.random.Philox(key=[SEED, 1]))
        documents = sorted(random.permutation(len(self.valid))[: self.config.evaluation_places])
        ids = [self.valid.ids[self.valid.offsets[i] : self.valid.offsets[i + 1]].tolist() for i in documents]
        return [self.tokenizer.decode(document).decode(errors="replace") for document in ids]

    def __call__(self, model: Any) -> dict[str, float]:
        """model: a transformers causal language model. Where there is no place to complete, there is no score of infilling."""
        scores = {BITS_PER_BYTE: bits_per_byte(model, self.valid, self.tokenizer, self.config.evaluation_tokens)}
        infilling = light_evaluation(model, self.tokenizer, self.texts, self.config.evaluation_places, SEED)
        if infilling["places"]:
            scores |= {EXACT_MATCH: infilling["exact_match"], EDIT_SIMILARITY: infilling["edit_similarity"]}
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
