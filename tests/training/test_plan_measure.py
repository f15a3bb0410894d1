"""What a short training of the plan measures is what a whole one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.config.preset import Preset, load_preset
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.models import flops_per_token
from training.plan.measure import LONGEST_STEP, fitting, in_a_process, small_run


def test_memory_is_that_of_a_run(
    run: Path, tokens_dir: Path, tiny_preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training").mkdir()  # of the user's, not to be taken for ours
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('decoy')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    short = tiny_preset.with_training(tokens=20_480)
    measured = in_a_process(tmp_path, short.with_training(minutes=1e-6), run)
    (tmp_path / "tiny.yaml").write_text(json.dumps(short.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "cli.main", "train", "pretrain", "--run", str(run), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--preset", str(tmp_path / "tiny.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    actual = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["counts"]["peak_memory_bytes"]
    assert measured["memory"] == pytest.approx(actual, rel=0.15)
    assert measured["tokens_per_second"] > 0


def test_tokens_to_measure_with_are_at_hand(tiny_preset: Preset, tmp_path: Path) -> None:
    assert len(open_shard(small_run(tmp_path / "run", tiny_preset) / "tokens", "train").ids) > 100_000


def test_long_steps_are_measured_in_part() -> None:
    preset = load_preset("200m")
    of_a_sequence = flops_per_token(preset.model) * preset.model.context_length

    def at(sequences: float) -> tuple[int, int, int, str]:
        """What is measured where so many sequences fit into the time."""
        part, said = fitting(preset, sequences * of_a_sequence / LONGEST_STEP)
        assert part.pretrain.minutes
        return part.model.layers, part.pretrain.batch_size, part.pretrain.micro_batch_size, said

    assert at(300) == (24, 256, 16, "")
    assert at(100) == (24, 96, 16, ""), "fewer micro-batches make a shorter step, nothing else"
    assert at(5.5) == (24, 5, 5, "5 of 16 sequences")
    layers, batch, micro, said = at(0.6)
    assert (batch, micro) == (1, 1)
    assert 1 < layers < 24
    assert said == f"1 of 16 sequences, {layers} of 24 blocks"
    assert at(1e-9)[0] == 1


def test_a_measurement_that_fails_says_why(tiny_preset: Preset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(
        UserError, match=r"the measurement failed: .*tokens holds no finished stage; .*; plan with --no-measure"
    ):
        in_a_process(tmp_path, tiny_preset.with_training(minutes=1e-6), tmp_path / "run")
