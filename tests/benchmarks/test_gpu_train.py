"""The measurement for GPUs, on this processor: nothing of it may be found broken only where a GPU has been rented."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_it_measures_and_profiles_in_the_time_it_is_given(run: Path, tokens_dir: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_train.py"), "--device", "cpu", "--quick", "--data", str(run)]
    preset = ROOT / "tests" / "fixtures" / "tiny.yaml"
    done = subprocess.run([*command, "--preset", str(preset), "--steps", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name, rung in figures["rungs"].items() if "failed" in rung]
    measured = [rung["tokens_per_second"] for rung in figures["rungs"].values() if "tokens_per_second" in rung]
    assert measured
    assert all(speed > 0 for speed in measured)
    assert 0 < figures["fastest"]["mfu"] < 2
    assert 0.5 < sum(figures["profile"]["shares"].values()) < 1.5
    assert "aten::mm" in {kernel["name"] for kernel in figures["profile"]["kernels"]}
