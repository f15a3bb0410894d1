"""A student that learns from a teacher, in the same loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.stage import Manifest
from training import metrics
from training.distill import continued, distill, stable_checkpoint
from training.pretrain import pretrain
from training.run_folder import found, step_of

STEPS, BATCH, LENGTH = 20, 4, 64
DECAY = 8
Distill = Callable[..., Manifest]


@pytest.fixture(scope="module")
def wsd(minute_preset: Path) -> Preset:
    """A student's training of 20 steps, whose rate falls over the last 8."""
    return load_preset(str(minute_preset)).with_training(
        tokens=STEPS * BATCH * LENGTH, schedule="wsd", decay_share=DECAY / STEPS
    )


@pytest.fixture(scope="module")
def student(wsd: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that training, without a teacher."""
    folder = tmp_path_factory.mktemp("student") / "pretrain"
    pretrain(folder, wsd, tokens_dir, tokenizer_dir)
    return folder


@pytest.fixture
def run_distill(tokens_dir: Path, tokenizer_dir: Path, trained: Path, student: Path) -> Distill:
    """Takes the student up where its rate begins to fall, with a teacher of more layers, on the same tokenizer."""

    def run_distill(folder: Path, preset: Preset | None = None, restart: bool = False, **settings: Any) -> Manifest:
        start = settings.pop("start", stable_checkpoint(student))
        cache, teacher = settings.pop("cache", None), settings.pop("teacher", trained)
        preset = preset or continued(start, None)
        preset = preset.with_changes({"distill": settings})
        return distill(folder, preset, tokens_dir, tokenizer_dir, teacher, restart=restart, start=start, cache=cache)

    return run_distill


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics.read(folder) if "loss" in row]


def weights(folder: Path) -> bytes:
    return (found(folder)[-1] / "model.safetensors").read_bytes()


def test_the_checkpoint_before_the_decay_stays(student: Path) -> None:
    assert [step_of(path) for path in found(student)] == [STEPS - DECAY, STEPS]
    assert stable_checkpoint(student).name == f"checkpoint-{STEPS - DECAY}"


def test_without_weight_of_the_teacher_it_is_the_training_itself(run_distill: Distill, student: Path, tmp_path: Path) -> None:
    run_distill(tmp_path / "distill", alpha=0.0)
    ours, theirs = rows(tmp_path / "distill"), rows(student)[-DECAY:]
    assert len(ours) == DECAY
    for key in ("step", "loss", "learning_rate", "gradient_norm", "batch_crc32"):
        assert [row[key] for row in ours] == [row[key] for row in theirs], key
    assert weights(tmp_path / "distill") == weights(student)


def test_the_teacher_is_heard_in_the_decay_only(run_distill: Distill, wsd: Preset, student: Path, tmp_path: Path) -> None:
    manifest = run_distill(tmp_path / "distill", wsd, start=None)
    logged = rows(tmp_path / "distill")
    assert [row["step"] for row in logged if "kl" in row] == list(range(STEPS - DECAY + 1, STEPS + 1))
    assert manifest.counts["taught_from_step"] == STEPS - DECAY
    # until then it is the training without a teacher
    assert [row["loss"] for row in logged[: STEPS - DECAY]] == [row["loss"] for row in rows(student)[: STEPS - DECAY]]
    assert logged[-1]["loss"] != rows(student)[-1]["loss"]


def test_in_all_of_the_training_if_asked(run_distill: Distill, wsd: Preset, tmp_path: Path) -> None:
    preset = wsd.with_training(schedule="cosine", tokens=3 * BATCH * LENGTH)
    with pytest.raises(UserError, match=r"schedule cosine .* has no decay phase"):
        run_distill(tmp_path / "distill", preset, start=None)
    run_distill(tmp_path / "distill", preset, start=None, phase="all")
    assert [row["step"] for row in rows(tmp_path / "distill") if "kl" in row] == [1, 2, 3]


def test_cached_is_live(run_distill: Distill, tmp_path: Path) -> None:
    live, cached = tmp_path / "live", tmp_path / "cached"
    run_distill(live, alpha=0.7, temperature=1.5, top_k=16)
    run_distill(cached, alpha=0.7, temperature=1.5, top_k=16, cache=tmp_path / "cache")
    for ours, theirs in zip(rows(cached), rows(live), strict=True):
        assert ours["batch_crc32"] == theirs["batch_crc32"]
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=2e-3)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    # what is there is not computed again, whatever the distillation is
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    run_distill(tmp_path / "other", alpha=0.2, temperature=1.5, top_k=16, cache=tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
