"""The log of a run."""

from pathlib import Path

from training import metrics


def test_what_was_logged_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    with metrics.Metrics(tmp_path, 0) as log:
        for step in range(1, 6):
            log.log(step, loss=1 / step)
    with metrics.Metrics(tmp_path, 3) as log:
        log.log(4, loss=0.1)
    assert [(row["step"], row["loss"]) for row in metrics.read(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.1)]


def test_a_line_that_a_killed_process_left_half_written_is_no_row(tmp_path: Path) -> None:
    assert metrics.read(tmp_path) == []
    (tmp_path / metrics.FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]
    with metrics.Metrics(tmp_path, 2) as log:
        log.log(3, loss=1.0)
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 3]
