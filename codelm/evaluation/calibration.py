"""How likely a completion is right, fitted on places where the answer is known: a regression, a curve, a table, a picture.

What is fitted here is applied while serving (`serving.gate`), so the result is plain numbers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codelm.errors import UserError

Floats = npt.NDArray[np.float64]

FOLDS = 5
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of the squared coefficients, of which the one that tells unseen files best is taken."""
STEPS = 50
CURVE_BIN = 40
"""Places of which one point of the curve is made at least: fewer would draw chance."""
FEW_SHOWN = 20
"""Places that must be shown for a precision to count as reached."""
MIN_OF_EACH = 20
"""Right places and wrong ones, without which there is nothing to fit."""


class Fit(NamedTuple):
    """What `fit` finds: the fields of `serving.gate.Gate` of the same names."""

    mean: Floats
    scale: Floats
    weights: Floats
    bias: float
    scores: Floats
    probabilities: Floats
    thresholds: Floats
    precisions: Floats
    coverages: Floats

    def probability(self, features: Floats) -> Floats:
        """(places, features) → the probability that each is right, (places,)."""
        score = standardised(features, self.mean, self.scale) @ self.weights + self.bias
        return np.interp(score, self.scores, self.probabilities)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, to six digits."""
        return {
            name: [float(f"{one:.6g}") for one in value] if isinstance(value, np.ndarray) else float(f"{value:.6g}")
            for name, value in self._asdict().items()
        }


def fit(features: Floats, right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> Fit:
    """Logistic regression with an L2 penalty, isotonic curve (Zadrozny and Elkan 2002), precision and coverage.

    features: (places, features); NaN is unknown. right: (places,). groups: (places,), of the file: places of one are never on
    both sides of a fold. Penalty, curve and table rest on the scores of files that the regression had not seen.
    Raises UserError if nearly all places are right, or wrong.
    """
    hits = int(right.sum())
    if min(hits, len(right) - hits) < MIN_OF_EACH:
        raise UserError(
            f"the model is right at {hits} of {len(right)} places, too few of a kind to tell by what",
            f"give more --places, or a better model: {MIN_OF_EACH} right and {MIN_OF_EACH} wrong ones are needed",
        )
    known = np.isfinite(features)
    mean = np.where(known, features, 0.0).sum(0) / np.maximum(1, known.sum(0))
    scale = np.sqrt(np.where(known, (features - mean) ** 2, 0.0).sum(0) / np.maximum(1, known.sum(0)))
    scale[scale < 1e-9] = math.inf  # what is always the same tells nothing
    inputs, target = standardised(features, mean, scale), right.astype(np.float64)
    unseen = {penalty: scores_of_unseen(inputs, target, groups, penalty) for penalty in PENALTIES}
    penalty = min(PENALTIES, key=lambda one: log_loss(unseen[one], target))
    weights, bias = regression(inputs, target, penalty)
    scores, probabilities = curve(unseen[penalty], target)
    calibrated = np.interp(unseen[penalty], scores, probabilities)
    scale[np.isinf(scale)] = 1.0
    return Fit(mean, scale, weights, bias, scores, probabilities, *precision_table(calibrated))


def standardised(features: Floats, mean: Floats, scale: Floats) -> Floats:
    """(value − mean) / scale, 0 where the value is unknown."""
    return np.nan_to_num((features - mean) / scale, nan=0.0, posinf=0.0, neginf=0.0)


def regression(inputs: Floats, target: Floats, penalty: float) -> tuple[Floats, float]:
    """Weights and bias that minimise log loss + penalty / 2 · |weights|², by Newton's method."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 1e-6
    beta = np.zeros(design.shape[1])
    for _ in range(STEPS):
        p = sigmoid(design @ beta)
        gradient = design.T @ (p - target) + ridge * beta
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        beta -= step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))  # a far jump could overshoot
        if float(np.abs(step).max()) < 1e-8:
            break
    return beta[:-1], float(beta[-1])


def scores_of_unseen(inputs: Floats, target: Floats, groups: npt.NDArray[np.int64], penalty: float) -> Floats:
    """The score of each place by a regression on the other folds, (places,)."""
    fold = np.unique(groups, return_inverse=True)[1] % FOLDS
    scores = np.zeros(len(inputs))
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            weights, bias = regression(inputs[~out], target[~out], penalty)
            scores[out] = inputs[out] @ weights + bias
    return scores


def sigmoid(scores: Floats) -> Floats:
    """1 / (1 + e^−score)."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


def log_loss(scores: Floats, target: Floats) -> float:
    """Nats a place."""
    return float(np.mean(np.logaddexp(0, scores) - target * scores))


def curve(scores: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Points of a rising curve from scores to probabilities: means of bins, those that would fall taken together.

    A bin's share is drawn a little towards that of all, as by one more place, so that none is 0 or 1.
    """
    order = np.argsort(scores, kind="stable")
    count = max(1, min(25, len(scores) // CURVE_BIN))
    blocks: list[tuple[float, float, int]] = []  # sums of scores and of right ones, size
    for part in np.array_split(order, count):
        blocks.append((float(scores[part].sum()), float(target[part].sum()), len(part)))
        while len(blocks) > 1 and blocks[-1][1] * blocks[-2][2] <= blocks[-2][1] * blocks[-1][2]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    base = float(target.mean())
    points = [(total / size, (hits + base) / (size + 1)) for total, hits, size in blocks]
    xs, ys = np.array([x for x, _ in points]), np.array([y for _, y in points])
    return xs, np.maximum.accumulate(ys)


def precision_table(probabilities: Floats) -> tuple[Floats, Floats, Floats]:
    """Thresholds, and the precision and coverage of showing what reaches them.

    The precision is the mean probability of what is shown: it rises with the threshold, which counted hits would not always.
    """
    falling = np.sort(probabilities)[::-1]
    means = np.cumsum(falling) / np.arange(1, len(falling) + 1)
    counts = np.unique(np.linspace(min(FEW_SHOWN, len(falling)), len(falling), 200).astype(int))[::-1]
    # a threshold shows all that have its very probability
    counts = np.unique(np.searchsorted(-falling, -falling[counts - 1], side="right"))[::-1]
    return falling[counts - 1], np.maximum.accumulate(means[counts - 1]), counts / len(falling)


class Checked(NamedTuple):
    """What a precision that is asked for gives on files that the fit has not seen."""

    asked: float
    threshold: float | None
    """None: out of reach"""
    precision: float | None
    """None: nothing was shown"""
    coverage: float
    shown: int


def check(fitted: Fit, probabilities: Floats, right: npt.NDArray[np.bool_], asked: Sequence[float]) -> list[Checked]:
    """Precision and coverage at each precision asked for. probabilities, right: (places,) of other files."""
    rows = []
    for precision in asked:
        reached = np.flatnonzero(fitted.precisions >= precision)
        threshold = float(fitted.thresholds[reached[0]]) if len(reached) else None
        shown = probabilities >= threshold if threshold is not None else np.zeros(len(right), dtype=bool)
        got = float(right[shown].mean()) if shown.any() else None
        rows.append(Checked(precision, threshold, got, float(shown.mean()), int(shown.sum())))
    return rows


def calibration_error(probabilities: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |probability − share of right ones|, mean over bins of equal size (Naeini et al. 2015)."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(right)))
    return float(sum(abs(probabilities[part].sum() - right[part].sum()) for part in parts) / len(right))


def plot(path: Path, probabilities: Floats, right: npt.NDArray[np.bool_], plain: Floats) -> None:
    """Reliability on the left, precision by coverage on the right, of files that the fit has not seen.

    plain: (places,), what ranked completions without a gate, to be seen beside it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, axes = figure.subplots(1, 2)
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(10, len(right)))
    told, found = [probabilities[part].mean() for part in parts], [right[part].mean() for part in parts]
    errors = [1.96 * math.sqrt(max(share * (1 - share), 1e-9) / len(part)) for share, part in zip(found, parts, strict=True)]
    left.plot([0, 1], [0, 1], color="tab:gray", linestyle="--")
    left.errorbar(told, found, yerr=errors, fmt="o", color="tab:blue", capsize=3)
    left.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    for label, ranking in (("gate", probabilities), ("mean token probability", plain)):
        order = np.argsort(-ranking, kind="stable")
        shown = np.arange(1, len(order) + 1)
        first = min(FEW_SHOWN, len(order)) - 1
        axes.plot((shown / len(order))[first:], (np.cumsum(right[order]) / shown)[first:], label=label)
    axes.set(xlabel="coverage: share of completions shown", ylabel="precision: share of those that is right", ylim=(0, 1))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
