"""The next token from a model's scores."""

from collections.abc import Sequence

import numpy as np

from codelm.healing import Ids
from serving.backend import Floats, Mixing


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751)."""

    def __init__(self, temperature: float, top_p: float, seed: int | None, mixing: Mixing | None = None) -> None:
        """top_p: the share of the probability to sample from, over 0 to 1. seed: None is a new one.

        mixing: what changes the model's probabilities before all else.
        """
        self.temperature = temperature
        self.top_p = top_p
        self._random = np.random.default_rng(seed)
        self._mixing = mixing

    def pick(self, logits: Floats, context: Sequence[int] = (), allowed: Ids | None = None) -> tuple[int, float]:
        """A token id and its log-probability before temperature.

        logits: one score for each token. context: all ids so far. allowed: the ids to choose from; None: all.
        """
        logprobs = log_softmax(logits)
        if self._mixing:
            logprobs = self._mixing.mix(logprobs, context)
        if allowed is not None:
            only = np.full_like(logprobs, -np.inf)
            only[allowed] = log_softmax(logprobs[allowed])
            logprobs = only
        token = self._sample(logprobs) if self.temperature > 0 else int(np.argmax(logprobs))
        return token, float(logprobs[token])

    def _sample(self, logprobs: Floats) -> int:
        scores = (logprobs - logprobs.max()).astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")
        probabilities = np.exp(scores[order])
        probabilities /= probabilities.sum()
        # the smallest set of tokens that holds top_p of the probability
        kept = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        nucleus = probabilities[:kept] / probabilities[:kept].sum()
        return int(order[self._random.choice(len(nucleus), p=nucleus)])


def log_softmax(logits: Floats) -> Floats:
    """Natural logarithms of the probabilities that scores stand for."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
