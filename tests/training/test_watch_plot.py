"""The picture of a run."""

from pathlib import Path

import pytest

from training import watch_plot


def test_what_is_smoothed_lags_neither_behind_nor_ahead() -> None:
    line = [float(i) for i in range(100)]
    assert watch_plot.smoothed(line)[2:-2] == pytest.approx(line[2:-2])
    assert watch_plot.smoothed([1.0] * 90) == pytest.approx([1.0] * 90)
    noisy = [float(i % 2) for i in range(400)]
    assert max(abs(value - 0.5) for value in watch_plot.smoothed(noisy)) < 0.1
    assert watch_plot.smoothed([3.0, 1.0]) == [3.0, 1.0]
    assert watch_plot.smoothed([]) == []


def test_a_plot_of_nothing_is_a_plot(tmp_path: Path) -> None:
    watch_plot.plot(tmp_path)
    assert (tmp_path / watch_plot.PLOT).read_bytes().startswith(b"\x89PNG")
