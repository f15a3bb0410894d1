"""What the Watcher does to a run: rows, checkpoints, an early end."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.config.preset import load_preset
from codelm.corpus.tokens import open_shard
from codelm.run_folder import is_running
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer
from training import checkpoint, metrics
from training.data import PackedSamples, StepBatches, loader
from training.loss import IGNORE

Train = Callable[..., Manifest]
Rows = Callable[[Path], list[dict[str, Any]]]
STEP = 4 * 64
"""Tokens."""


class KilledError(Exception):
    """What a process dies of."""


def killed_after(steps: int) -> Callable[..., None]:
    """A progress that ends the run once it has logged so many steps, with nothing of them saved."""

    def progress(done: float, total: float | None = None, **facts: str) -> None:
        if done == steps * STEP and facts:
            raise KilledError

    return progress


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.found(folder)]


def test_a_row_has_what_there_is_to_know(
    train: Train, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path, tmp_path: Path
) -> None:
    manifest = train(tmp_path / "pretrain", tokens=2 * STEP)
    first, *others = metrics.read(tmp_path / "pretrain")
    assert {"loss", "loss_code", "bits_per_byte", "learning_rate", "gradient_norm", "batch_crc32"} < first.keys()
    assert metrics.TIMING - {"evaluation_seconds"} < first.keys()
    assert {"valid_bits_per_byte", "valid_exact_match", "evaluation_seconds"} < others[0].keys()
    assert first["memory_bytes"] > 10_000_000
    assert first["mfu"] > 0
    assert 0 < first["overhead_share"] < 1
    assert 0 < first["seconds"] < metrics.last(others, "seconds")

    preset, tokenizer = load_preset(str(minute_preset)), Tokenizer(tokenizer_dir / FILE)
    samples = PackedSamples(open_shard(tokens_dir, "train"), tokenizer, preset.pretrain.fim, 64, preset.pretrain.seed)
    (batch,) = loader(samples, StepBatches(0, 1, 4, 1, 0, 1), 0)
    labels = batch.labels[batch.labels != IGNORE].tolist()
    label_bytes = len(tokenizer.decode(labels))
    assert first["bits_per_byte"] == pytest.approx(first["loss"] * len(labels) / math.log(2) / label_bytes, rel=1e-5)

    counts = manifest.counts
    assert counts["peak_flops"]["flops"] > 1e8
    assert counts["peak_memory_bytes"] > 10_000_000
    assert counts["time_shares"].keys() == {"data", "log", "checkpoint", "evaluation"}
    assert 0 < sum(counts["time_shares"].values()) < 1


def test_the_best_by_infilling_stays_beyond_the_newest(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    watch = {"evaluations": 6, "keep_checkpoints": 2}
    with pytest.raises(KilledError):
        train(folder, tokens=6 * STEP, watch=watch, progress=killed_after(4))
    assert names(folder) == ["checkpoint-2", "checkpoint-3"]
    rows = metrics.read(folder)
    assert rows[-1]["step"] == 4
    for row in rows:
        if "valid_exact_match" in row:
            row["valid_exact_match"] = 1.0 if row["step"] == 2 else 0.5
    (folder / metrics.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    counts = train(folder, tokens=6 * STEP, watch=watch | {"keep_checkpoints": 1}).counts
    assert names(folder) == ["checkpoint-2", "checkpoint-6"]
    assert (counts["checkpoint"], counts["best_checkpoint"]) == ("checkpoint-6", "checkpoint-2")
    best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    assert (best["checkpoint"], best["step"], best["valid_exact_match"]) == ("checkpoint-2", 2, 1.0)


@pytest.mark.parametrize(
    ("rule", "settings", "ends"),
    [
        ({"plateau": {"evaluations": 2, "min_delta": 50}}, {}, [3]),
        ({"floor": {"value": 0.1, "share": 0.5}}, {}, [4]),
        ({"divergence": {"factor": 1.001, "logged_steps": 2}}, {"learning_rate": 30.0, "warmup_share": 0.0}, range(2, 8)),
    ],
    ids=["plateau", "floor", "divergence"],
)
def test_a_run_that_is_to_end_early_ends_well(
    train: Train, rows: Rows, tmp_path: Path, rule: dict[str, Any], settings: dict[str, Any], ends: Any
) -> None:
    folder = tmp_path / "pretrain"
    arguments: dict[str, Any] = {
        "tokens": 8 * STEP,
        "watch": {"evaluations": 8, "evaluation_places": 2, "early_stop": rule},
        **settings,
    }
    said: list[str] = []
    counts = train(folder, say=said.append, **arguments).counts
    end = counts["steps"]
    assert end in ends
    assert counts["stopped"]["rule"] == next(iter(rule))
    assert counts["tokens"] == end * STEP
    assert names(folder)[-1] == counts["checkpoint"] == f"checkpoint-{end}"
    assert any(counts["stopped"]["why"] in line for line in said)
    logged = rows(folder)
    assert "valid_bits_per_byte" in logged[-1]
    assert logged[-1]["step"] == end

    (folder / "manifest.json").unlink()
    assert train(folder, **arguments).counts["stopped"] == counts["stopped"]
    assert rows(folder) == logged, "a stopped run does not go on when it is started again"

    with pytest.raises(KilledError):
        train(folder, restart=True, progress=killed_after(end), **arguments)
    assert train(folder, **arguments).counts["stopped"] == counts["stopped"]
    assert rows(folder) == logged, "nor does it end elsewhere when it is killed on the way"


def test_without_evaluations_there_are_none(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    counts = train(folder, watch={"evaluations": 0}).counts
    assert not any("valid_bits_per_byte" in row for row in metrics.read(folder))
    assert (counts["valid_bits_per_byte"], counts["valid_exact_match"], counts["best_checkpoint"]) == (None, None, None)
    assert names(folder) == ["checkpoint-3"]


def test_others_can_tell_that_a_run_goes_on(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    seen: list[bool] = []
    assert not is_running(folder)
    train(folder, progress=lambda done, total=None, **facts: seen.append(is_running(folder)))
    assert seen
    assert all(seen)
    assert not is_running(folder)
