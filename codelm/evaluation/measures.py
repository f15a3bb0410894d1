"""What is measured of a completion, and how sure one can be of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from codelm.evaluation.places import Place

Z = 1.959964
"""Standard deviations on either side that hold 95 % of a normal distribution."""
RESAMPLES = 1_000


class Estimate(NamedTuple):
    """A measured value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def is_exact(line: str, place: Place) -> bool:
    """Whether a line is what stands there, white space at its end aside."""
    return line.rstrip() == place.rest.rstrip()


def edit_similarity(line: str, place: Place) -> float:
    """1 − Levenshtein distance over the length of the longer text, 0 to 1, white space at the ends aside."""
    return float(Levenshtein.normalized_similarity(line.rstrip(), place.rest.rstrip()))


def share(hits: Sequence[bool]) -> Estimate:
    """The share of hits with Wilson's score interval (1927), which holds for few and for no hits too."""
    count, p = len(hits), sum(hits) / len(hits)
    scale = 1 + Z**2 / count
    middle = (p + Z**2 / (2 * count)) / scale
    half = Z / scale * math.sqrt(p * (1 - p) / count + (Z / (2 * count)) ** 2)
    return Estimate(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)))


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> Estimate:
    """Σ numerators / Σ denominators with the percentile bootstrap's interval (Efron 1979): pairs are drawn, always the same.

    A mean has ones as denominators. What is drawn must be independent: windows of text or places, not tokens.
    """
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    drawn = np.random.Generator(np.random.Philox(key=[0, 0])).integers(len(above), size=(RESAMPLES, len(above)))
    low, high = np.quantile(above[drawn].sum(1) / below[drawn].sum(1), [0.025, 0.975])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))
