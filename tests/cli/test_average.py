"""The running mean of the weights, evaluated and exported beside the weights themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from codelm.config.preset import Preset
from codelm.models import weights_sha256
from codelm.stage import Manifest
from serving.llamacpp import LlamaCpp
from training.pretrain import pretrain

CODELM = [sys.executable, "-m", "cli.main"]


def codelm(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CODELM, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture
def mine(run: Path, tokens_dir: Path, tmp_path: Path) -> Path:
    """A run folder with the session's data."""
    (tmp_path / "mine").mkdir()
    for stage in ("corpus", "tokenizer", "tokens"):
        (tmp_path / "mine" / stage).symlink_to(run / stage)
    return tmp_path / "mine"


def test_evaluated_and_exported(mine: Path, tiny_preset: Preset) -> None:
    pretrain(mine / "pretrain", tiny_preset.with_training(tokens=8 * 1024, ema=0.9), mine / "tokens", mine / "tokenizer")
    too_early = codelm("export", "--run", mine, "--average")
    assert too_early.returncode == 2
    assert "evaluate-average" in too_early.stderr
    quick = ("--places", 4, "--tokens", 1024)
    for mean in ((), ("--average",)):
        done = codelm("evaluate", "--run", mine, *quick, *mean)
        assert done.returncode == 0, done.stderr
    done = codelm("export", "--run", mine, "--average")
    assert done.returncode == 0, done.stderr
    assert not (mine / "export").exists()
    model = LlamaCpp(mine / "export-average" / "tiny-average-q8_0.gguf")
    name = Manifest.read(mine / "pretrain").counts["checkpoint"]
    assert model.metadata.weights_sha256 == weights_sha256(mine / "pretrain" / name / "average")
    model.close()
    bits = [Manifest.read(mine / folder).counts["bits_per_byte"] for folder in ("evaluate", "evaluate-average")]
    assert bits[0] != bits[1]
    card = (mine / "export-average" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "codelm-tiny-average" in card
    assert "loss.png" in card


def test_none_was_kept(run: Path, trained: Path) -> None:
    refused = codelm("evaluate", "--run", run, "--average")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {trained} keeps no running mean of the weights; train with")
