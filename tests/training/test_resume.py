"""A run that is killed and resumed is, bit for bit, the run that never was."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.stage import Manifest
from training import checkpoint

Start = Callable[..., Any]
Rows = Callable[[Path], list[dict[str, Any]]]
STEPS = 40
RESTLESS = {"watch": {"checkpoint_seconds": 1e-6}}


def assert_same_run(one: Path, other: Path, rows: Rows) -> None:
    assert rows(one) == rows(other)
    weights = [checkpoint.found(folder)[-1] / "model.safetensors" for folder in (one, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_log_of_a_run(uninterrupted: Path, rows: Rows) -> None:
    steps = [row for row in rows(uninterrupted) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["tokens"] for row in steps] == [step * 4 * 64 for step in range(1, STEPS + 1)]
    assert len({row["batch_crc32"] for row in steps}) == STEPS
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert [row["step"] for row in rows(uninterrupted) if "valid_bits_per_byte" in row] == [STEPS // 2, STEPS]
    assert (uninterrupted / "loss.png").stat().st_size > 10_000
    assert list((uninterrupted / "tensorboard").iterdir())
    counts = Manifest.read(uninterrupted).counts
    assert counts["steps"] == STEPS
    assert counts["loss"] == steps[-1]["loss"]
    assert (uninterrupted / counts["checkpoint"]).is_dir()


def test_killed_at_any_moment_it_resumes_bit_for_bit(start: Start, uninterrupted: Path, rows: Rows, tmp_path: Path) -> None:
    chance = random.Random()
    folder = tmp_path / "pretrain"
    step = 0
    for workers in (2, 1):
        step += chance.randint(1, 15)
        delay = chance.uniform(0, 0.2)
        print(f"killing after step {step} and {delay} s, {workers} workers")
        process = start(folder, engine={"workers": workers}, **RESTLESS)
        process.wait_for_step(folder, step)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len([row for row in rows(folder) if "loss" in row]) < STEPS
    assert "resuming at step" in start(folder, engine={"workers": 0}).finish()
    assert_same_run(folder, uninterrupted, rows)


def test_ctrl_c_leaves_a_checkpoint_of_the_last_step(start: Start, uninterrupted: Path, rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    process = start(folder, engine={"workers": 1})
    process.wait_for_step(folder, 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "ending after this step, with a checkpoint" in err
    done = rows(folder)[-1]["step"]
    assert 5 <= done < STEPS
    assert [path.name for path in checkpoint.found(folder)] == [f"checkpoint-{done}"]
    assert f"resuming at step {done} of {STEPS}" in start(folder, engine={"workers": 2}).finish()
    assert_same_run(folder, uninterrupted, rows)


def test_sigterm_does_the_same_and_may_come_again(start: Start, rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    process = start(folder, tokens=4_000 * 256, engine={"workers": 1})
    process.wait_for_step(folder, 5)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert [path.name for path in checkpoint.found(folder)] == [f"checkpoint-{rows(folder)[-1]['step']}"]


def test_a_finished_run_is_not_run_again(start: Start, uninterrupted: Path) -> None:
    before = Manifest.read(uninterrupted)
    start(uninterrupted, engine={"workers": 2}, watch={"log_every": 7}).finish()
    assert Manifest.read(uninterrupted) == before


def test_a_run_without_its_manifest_ends_at_once(start: Start, uninterrupted: Path, rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    shutil.copytree(uninterrupted, folder)
    (folder / "manifest.json").unlink()
    start(folder).finish()
    assert Manifest.read(folder).counts["loss"] == Manifest.read(uninterrupted).counts["loss"]
    assert_same_run(folder, uninterrupted, rows)


def test_gradient_accumulation_is_the_same_batch(start: Start, uninterrupted: Path, rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "pretrain"
    start(folder, engine={"micro_batch_size": 4}).finish()
    ours, theirs = ([row["loss"] for row in rows(path) if "loss" in row] for path in (folder, uninterrupted))
    assert ours == pytest.approx(theirs, abs=2e-2)
    assert ours[:3] == pytest.approx(theirs[:3], abs=1e-3)


@pytest.mark.e2e
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_it_resumes_bit_for_bit(start: Start, rows: Rows, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start(whole, engine={"compile": True}).finish()
    process = start(killed, engine={"compile": True, "workers": 1}, **RESTLESS)
    process.wait_for_step(killed, 7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "resuming at step" in start(killed, engine={"compile": True}).finish()
    assert_same_run(killed, whole, rows)
