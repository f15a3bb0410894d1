"""`codelm calibrate`: the gate in the bundle, and what it cannot be fitted on."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.calibrate import ASKED, Answered, learn
from codelm.evaluation.calibration import MIN_OF_EACH
from codelm.stage import Manifest, file_sha256
from serving.gate import Gate, features_of
from serving.llamacpp import LlamaCpp
from serving.request import Completion, CompletionRequest, StopReason, Timings

CODELM = [sys.executable, "-m", "cli.main"]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """The model's file in a bundle of its own."""
    shutil.copytree(bundle, tmp_path / "export")
    return tmp_path / "export" / "tiny-q8_0.gguf"


def calibrate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CODELM, "calibrate", *map(str, arguments), "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=550)


def answers(count: int, seed: int = 0) -> list[Answered]:
    """Completions that are right as often as the product of their tokens' probabilities says, whatever the rest."""
    random = np.random.default_rng(seed)
    timings = Timings(prompt_tokens=9, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    found = []
    for number in range(count):
        logprobs = tuple(-random.exponential(random.choice([0.02, 0.3, 1.0]), random.integers(1, 12)))
        text = " ".join(random.choice(["return", "x", "value", "(a)", "None"], len(logprobs)))
        written = Completion(id="", text=text, stop_reason=StopReason.LINE, logprobs=logprobs, timings=timings)
        request = CompletionRequest(prefix=str(random.choice(["    ", "x = ", "x.", "# see "])), path="a.py")
        right = bool(random.random() < math.exp(sum(logprobs)))
        found.append(Answered(number % 10, features_of(request, written), written.confidence, right))
    return found


def test_a_bundle_gets_its_gate(copy: Path) -> None:
    summary = learn(copy, answers(4000), ASKED)
    model = LlamaCpp(copy)
    assert model.metadata.gate
    model.close()
    gate = Gate.from_json(model.metadata.gate)
    assert (gate.places, summary["fitted_on"], summary["places"]) == (2400, 2400, 4000)
    assert summary["calibration_error"] < 0.04
    for row in summary["table"]:
        assert row["threshold"] == pytest.approx(gate.threshold(row["asked"]), abs=1e-5)
        assert row["precision"] == pytest.approx(row["asked"], abs=0.05) or row["coverage"] > 0.99
    assert (copy.parent / "tiny-q8_0-gate.png").read_bytes().startswith(b"\x89PNG")
    assert Manifest.read(copy.parent).outputs[copy.name] == file_sha256(copy)


def test_too_few_right_lines(run: Path, copy: Path, tokens_dir: Path) -> None:
    """The tests' own model is asked as it is served, and knows too little."""
    before = copy.read_bytes()
    process = calibrate(copy, "--run", run, "--places", 100)
    assert process.returncode == 2
    assert f"{MIN_OF_EACH} right and {MIN_OF_EACH} wrong ones are needed" in process.stderr
    assert copy.read_bytes() == before


def test_what_cannot_be_calibrated(run: Path, copy: Path, tokens_dir: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(copy.read_bytes()[:5000])
    for arguments, told in (
        ((tmp_path / "none.gguf", "--run", run), "does not exist"),
        ((half, "--run", run), "cut short"),
        ((copy, "--run", tmp_path / "none"), "no such run folder"),
        ((copy, "--run", run, "--places", 5), "100"),
    ):
        process = calibrate(*arguments)
        assert process.returncode == 2, arguments
        assert told in process.stderr
    assert half.stat().st_size == 5000
