"""A decay that branches off a training whose learning rate stays up."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.train import app
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.run_folder import found
from training import metrics
from training.budget import Budget
from training.origin import continued
from training.pretrain import pretrain

STEPS, DECAY, TOKENS_PER_STEP = 20, 8, 4 * 64


@pytest.fixture(scope="module")
def wsd(minute_preset: Path) -> Preset:
    return load_preset(str(minute_preset)).with_training(
        tokens=STEPS * TOKENS_PER_STEP, schedule="wsd", decay_share=DECAY / STEPS, watch={"evaluations": 0}
    )


@pytest.fixture(scope="module")
def trunk(wsd: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training; its checkpoint from before the decay is kept."""
    folder = tmp_path_factory.mktemp("trunk") / "pretrain"
    pretrain(folder, wsd, tokens_dir, tokenizer_dir)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics.read(folder) if "loss" in row]


def test_without_a_budget_of_its_own_it_is_the_trunk(
    trunk: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    start, end = found(trunk)
    pretrain(tmp_path / "branch", continued(start, None), tokens_dir, tokenizer_dir, start=start)
    branch, whole = (load_file(path / "model.safetensors") for path in (found(tmp_path / "branch")[-1], end))
    torch.testing.assert_close(branch, whole, atol=1e-5, rtol=0)  # in one process, where earlier tests may have left threads


def test_with_tokens_the_rate_falls_over_them(trunk: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    start = found(trunk)[0]
    before = {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()}
    manifest = pretrain(tmp_path / "branch", continued(start, 4 * TOKENS_PER_STEP), tokens_dir, tokenizer_dir, start=start)
    logged, peak = rows(tmp_path / "branch"), rows(trunk)[STEPS - DECAY - 1]["learning_rate"]
    assert [row["step"] for row in logged] == list(range(STEPS - DECAY + 1, STEPS - DECAY + 5))
    rates = [row["learning_rate"] for row in logged]
    assert peak > rates[1] > rates[2] > rates[3]
    assert [row["batch_crc32"] for row in logged] == [row["batch_crc32"] for row in rows(trunk)[-DECAY:][:4]]
    assert manifest.counts["tokens"] == (STEPS - DECAY + 4) * TOKENS_PER_STEP
    assert {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()} == before


def test_the_rate_falls_from_where_it_stood(tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, wsd: Preset) -> None:
    cosine = wsd.with_training(schedule="cosine", watch={"checkpoint_steps": 10, "keep_checkpoints": 9})
    pretrain(tmp_path / "cosine", cosine, tokens_dir, tokenizer_dir)
    start = tmp_path / "cosine" / "checkpoint-10"
    pretrain(tmp_path / "branch", continued(start, 4 * TOKENS_PER_STEP), tokens_dir, tokenizer_dir, start=start)
    before, after = (rows(tmp_path / name) for name in ("cosine", "branch"))
    assert after[0]["learning_rate"] == pytest.approx(before[9]["learning_rate"])
    assert after[0]["learning_rate"] < 0.7 * cosine.pretrain.learning_rate
    assert after[-1]["learning_rate"] < after[0]["learning_rate"] / 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "muon"}, "pretrain.optimizer was adamw"),
        ({"batch_size": 8}, "pretrain.batch_size was 4"),
        ({"minutes": 1.0}, "not its minutes; give --tokens"),
    ],
)
def test_a_branch_takes_up_the_optimiser_and_the_place_in_the_data(
    trunk: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    start = found(trunk)[0]
    with pytest.raises(UserError, match=said):
        pretrain(tmp_path / "branch", continued(start, None).with_training(**change), tokens_dir, tokenizer_dir, start=start)


def test_a_rate_that_has_fallen_cannot_fall(trunk: Path, tmp_path: Path) -> None:
    shutil.copytree(trunk, tmp_path / "long")
    Budget(steps=200, tokens=200 * TOKENS_PER_STEP, tokens_per_step=TOKENS_PER_STEP).write(tmp_path / "long")
    (tmp_path / "long" / f"checkpoint-{STEPS}").rename(tmp_path / "long" / "checkpoint-200")
    preset = load_preset(str(trunk / "preset.yaml")).with_training(final_lr_share=0.0)
    (tmp_path / "long" / "preset.yaml").write_text(preset.model_dump_json(), encoding="utf-8")  # JSON is YAML
    with pytest.raises(UserError, match=r"has fallen to 1\.2% of its peak: there is nothing left to fall"):
        continued(tmp_path / "long" / "checkpoint-200", TOKENS_PER_STEP)


def test_what_it_begins_with_is_not_thrown_away(trunk: Path, tokens_dir: Path, tokenizer_dir: Path) -> None:
    start = found(trunk)[0]
    with pytest.raises(UserError, match="--restart would throw away"):
        pretrain(trunk, continued(start, None), tokens_dir, tokenizer_dir, restart=True, start=start)
    assert start.is_dir()


def test_the_end_of_a_training_needs_tokens(trunk: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    end = found(trunk)[-1]
    with pytest.raises(UserError, match="the run ends after step 20"):
        pretrain(tmp_path / "branch", continued(end, None), tokens_dir, tokenizer_dir, start=end)
    assert not (tmp_path / "branch").exists()


@pytest.mark.parametrize("also", [["--preset", "nano"], ["--minutes", "5"], ["--init", "x"], []])
def test_a_branch_has_the_settings_of_its_trunk_and_its_own_folder(trunk: Path, tmp_path: Path, also: list[str]) -> None:
    out = [] if not also else ["--out", str(tmp_path / "branch")]
    result = CliRunner().invoke(app, ["pretrain", "--run", str(tmp_path), "--from", str(trunk), *out, *also])
    assert isinstance(result.exception, UserError)
    assert "--from goes on with the settings of that training" in str(result.exception)
