"""The next token from a model's scores."""

import numpy as np
import numpy.typing as npt


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751)."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        """top_p: the share of the probability to sample from, over 0 to 1. seed: None is a new one."""
        self.temperature = temperature
        self.top_p = top_p
        self._random = np.random.default_rng(seed)

    def pick(self, logits: npt.NDArray[np.float32]) -> tuple[int, float]:
        """A token id and its log-probability under the model itself. logits: one score for each token."""
        token = self._sample(logits) if self.temperature > 0 else int(np.argmax(logits))
        top = float(logits.max())
        return token, float(logits[token]) - top - float(np.log(np.exp(logits - top).sum()))

    def _sample(self, logits: npt.NDArray[np.float32]) -> int:
        scores = (logits - logits.max()).astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")
        probabilities = np.exp(scores[order])
        probabilities /= probabilities.sum()
        # the smallest set of tokens that holds top_p of the probability
        kept = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        nucleus = probabilities[:kept] / probabilities[:kept].sum()
        return int(order[self._random.choice(len(nucleus), p=nucleus)])
