"""The picture of a run."""

from pathlib import Path

from training import watch_plot


def test_the_running_mean_is_corrected_for_its_start() -> None:
    assert watch_plot.running_mean([2.0, 2.0, 2.0]) == [2.0, 2.0, 2.0]
    assert watch_plot.running_mean([0.0, 1.0], weight=0.5)[1] == 2 / 3
    assert watch_plot.running_mean([]) == []


def test_a_plot_of_nothing_is_a_plot(tmp_path: Path) -> None:
    watch_plot.plot(tmp_path)
    assert (tmp_path / watch_plot.PLOT).read_bytes().startswith(b"\x89PNG")
