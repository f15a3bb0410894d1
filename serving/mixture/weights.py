"""The coefficients of the mixture: how much a match counts, and how far the project is believed. Fitted, kept as data.

The weight of a row that matches is e to the sum of its terms in `Kernel`; what the project says comes next is each token's
share of the weights. How much of it is mixed in, λ, is a logistic function of the features of GATE; how sure a draft is
of its token, one of those of DRAFT, which knows nothing of the model. benchmarks/fit_mixture.py fits all of them.
"""

import math
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field

from serving.mixture.table import ORDER

FILE = Path(__file__).with_name("weights.yaml")
DISTANCE_SCALE = 8.0
"""Blocks from the cursor over which a row of the open file hardly loses weight."""
MAX_BEGUN = 8
"""Characters of a begun word that tell more with each."""
LEAST_LOGPROB = -12.0
"""So that the odd token of no probability at all does not outweigh the other features."""

Floats = npt.NDArray[np.float32]
Features = list[float]


class Source(IntEnum):
    """Where a row is from."""

    OPEN = 0
    NEIGHBOUR = 1
    WORKSPACE = 2


class Candidates(NamedTuple):
    """Rows that match a context, (rows,) each.

    tokens: what they say comes next. lengths: matching tokens, 1 to ORDER. sources: of Source. distances: ln(1 + blocks from
    the cursor / DISTANCE_SCALE), 0 outside the open file. partial: whether they match less than the identifier that the
    context has begun, only its last syllables. begun: how many characters of a token that the cursor cuts they go on with.
    """

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.intp]
    sources: npt.NDArray[np.int8]
    distances: Floats
    partial: npt.NDArray[np.bool_]
    begun: npt.NDArray[np.int8]


class Opinion(NamedTuple):
    """What the project says comes next. tokens, shares: (tokens,), the shares sum to one; top: the place of the greatest.

    length: the longest match. evidence: logarithm of all weight. here: the open file's share of it. inside: whether the context
    ends within an identifier. begun: whether a token that the cursor cuts goes on.
    """

    tokens: npt.NDArray[np.intp]
    shares: Floats
    top: int
    length: int
    evidence: float
    here: float
    inside: bool
    begun: bool


GATE = ("bias", "length", "evidence", "share", "here", "inside", "begun", "model_top", "model_agrees")
DRAFT = GATE[:7]


def features(opinion: Opinion) -> Features:
    """The values of DRAFT."""
    return [
        1.0,
        opinion.length / ORDER,
        opinion.evidence,
        float(opinion.shares[opinion.top]),
        opinion.here,
        float(opinion.inside),
        float(opinion.begun),
    ]


def gate_features(opinion: Opinion, logprobs: Floats) -> Features:
    """The values of GATE. model_top: the model's greatest log-probability; model_agrees: that of the project's first choice."""
    first = float(logprobs[opinion.tokens[opinion.top]])
    return [*features(opinion), max(float(logprobs.max()), LEAST_LOGPROB), max(first, LEAST_LOGPROB)]


class Kernel(BaseModel):
    """Terms of a row's log weight. lengths: by matching tokens, 1 to ORDER. sources: by Source. distance: times its distance.

    partial: of a match of less than the begun identifier. begun, begun_character: of going on with a token that is cut, and
    for each of its characters.
    """

    model_config = ConfigDict(frozen=True)

    lengths: tuple[float, ...] = Field(min_length=ORDER, max_length=ORDER)
    sources: tuple[float, ...] = Field(min_length=len(Source), max_length=len(Source))
    distance: float
    partial: float
    begun: float
    begun_character: float


class Weights(BaseModel):
    """All coefficients for one language. gate, draft: by the names of GATE and DRAFT."""

    model_config = ConfigDict(frozen=True)

    kernel: Kernel
    gate: dict[str, float]
    draft: dict[str, float]


class Terms:
    """Weights as arrays, for use at every token."""

    def __init__(self, weights: Weights) -> None:
        kernel = weights.kernel
        self._length = np.array([-np.inf, *kernel.lengths], dtype=np.float32)
        self._source = np.array(kernel.sources, dtype=np.float32)
        self._kernel = kernel
        self._gate = [weights.gate[name] for name in GATE]
        self._draft = [weights.draft[name] for name in DRAFT]

    def opinion(self, candidates: Candidates, inside: bool) -> Opinion:
        """Sums the rows up. candidates: at least one row."""
        kernel = self._kernel
        logs = self._length[candidates.lengths] + self._source[candidates.sources]
        logs += np.float32(kernel.distance) * candidates.distances
        logs += np.float32(kernel.partial) * candidates.partial
        begun = bool(candidates.begun.any())
        if begun:
            logs += np.where(candidates.begun > 0, kernel.begun + kernel.begun_character * candidates.begun, 0)
        weights = np.exp(logs)
        of_all = np.bincount(candidates.tokens, weights)
        tokens = of_all.nonzero()[0]
        sums = of_all[tokens].astype(np.float32)
        total = float(sums.sum())
        return Opinion(
            tokens=tokens,
            shares=sums / total,
            top=int(sums.argmax()),
            length=int(candidates.lengths.max()),
            evidence=math.log(total),
            here=float(weights[candidates.sources == Source.OPEN].sum()) / total,
            inside=inside,
            begun=begun,
        )

    def mix(self, opinion: Opinion, logprobs: Floats) -> Floats:
        """ln((1 − λ) p + λ share) of each token, (vocab,). logprobs: ln p."""
        logit = dot(self._gate, gate_features(opinion, logprobs))
        mixed = logprobs - np.float32(softplus(logit))
        mixed[opinion.tokens] = np.logaddexp(mixed[opinion.tokens], np.log(opinion.shares) - np.float32(softplus(-logit)))
        return mixed

    def confidence(self, opinion: Opinion) -> float:
        """How likely the project's first choice is right, 0 to 1."""
        return math.exp(-softplus(-dot(self._draft, features(opinion))))


class WeightsFile(BaseModel):
    """weights.yaml. languages: by lower-case name, those with coefficients of their own. fitted: on what, for the reader."""

    model_config = ConfigDict(frozen=True)

    fitted: dict[str, str | int | float]
    default: Weights
    languages: dict[str, Weights] = {}

    @classmethod
    def read(cls, path: Path = FILE) -> Self:
        """Raises OSError or ValueError if there is no such file or it is none."""
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))

    def of(self, language: str | None) -> Weights:
        """The coefficients for a language."""
        return self.languages.get((language or "").lower(), self.default)


def dot(coefficients: list[float], values: Features) -> float:
    """Σ coefficients · values."""
    return sum(map(float.__mul__, coefficients, values))


def softplus(x: float) -> float:
    """ln(1 + eˣ), so that −softplus(−x) is the logarithm of the logistic function."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
