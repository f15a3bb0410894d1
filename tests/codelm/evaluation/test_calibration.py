"""The fit, on data whose truth is known: right with a probability that two of the features tell."""

from pathlib import Path

import numpy as np
import pytest

from codelm.errors import UserError
from codelm.evaluation.calibration import calibration_error, check, fit, plot, sigmoid


def data(seed: int, places: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, right ones, groups, and the true probabilities. The third feature is noise, the fourth never known."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(places, 5)) * [1, 20, 3, 1, 0] + [0, 5, 0, 0, 7]
    true = sigmoid(2.0 * features[:, 0] - 0.08 * (features[:, 1] - 5) - 1.5)
    features[:, 3] = np.nan
    features[random.random(places) < 0.1, 2] = np.nan
    return features, random.random(places) < true, random.integers(0, 40, places), true


def test_probabilities_are_found() -> None:
    features, right, groups, _ = data(0)
    fitted = fit(features, right, groups)
    others, other_right, _, true = data(1)
    told = fitted.probability(others)
    assert np.isfinite(told).all()
    assert float(np.abs(told - true).mean()) < 0.04
    assert calibration_error(told, other_right) < 0.03


def test_a_precision_that_is_asked_for_is_met_within_five_points() -> None:
    features, right, groups, _ = data(0)
    fitted = fit(features, right, groups)
    others, other_right, _, _ = data(1)
    rows = check(fitted, fitted.probability(others), other_right, [0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
    for row in rows:
        assert row.precision is not None
        assert row.precision == pytest.approx(row.asked, abs=0.05) or row.asked < other_right.mean()
    coverages = [row.coverage for row in rows]
    assert coverages == sorted(coverages, reverse=True)
    assert coverages[-1] > 0.03


def test_what_is_out_of_reach_is_told() -> None:
    random = np.random.default_rng(0)
    features, right = random.normal(size=(1000, 3)), random.random(1000) < 0.3  # nothing tells anything
    fitted = fit(features, right, random.integers(0, 9, 1000))
    (row,) = check(fitted, fitted.probability(features), right, [0.9])
    assert (row.threshold, row.precision, row.shown) == (None, None, 0)


def test_the_curves_rise_and_are_shares() -> None:
    for seed in range(5):
        features, right, groups, _ = data(seed, 300)
        fitted = fit(features, right, groups)
        for rising in (fitted.scores, fitted.probabilities, fitted.thresholds, fitted.precisions):
            assert (np.diff(rising) >= 0).all()
        for share in (fitted.probabilities, fitted.precisions, fitted.coverages):
            assert ((share >= 0) & (share <= 1)).all()
        assert fitted.probabilities[0] > 0
        assert fitted.probabilities[-1] < 1


@pytest.mark.parametrize("hits", [0, 5, 295])
def test_too_few_of_a_kind(hits: int) -> None:
    right = np.arange(300) < hits
    with pytest.raises(UserError, match=f"right at {hits} of 300 places"):
        fit(np.zeros((300, 2)), right, np.arange(300))


def test_the_picture(tmp_path: Path) -> None:
    features, right, groups, _ = data(0, 300)
    told = fit(features, right, groups).probability(features)
    plot(tmp_path / "gate.png", told, right, features[:, 0])
    assert (tmp_path / "gate.png").read_bytes().startswith(b"\x89PNG")
