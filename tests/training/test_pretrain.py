"""Pretraining as a stage: what its folder records, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.stage import Manifest
from training import budget, checkpoint, metrics
from training.budget import Budget
from training.pretrain import pretrain

Train = Callable[..., Manifest]


@pytest.fixture
def finished(train: Train, tmp_path: Path) -> Path:
    train(tmp_path / "pretrain")
    return tmp_path / "pretrain"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 1e-3}, "pretrain.learning_rate 0.003 → 0.001"),
        ({"seed": 5}, "pretrain.seed 0 → 5"),
        ({"tokens": 4 * 256}, "pretrain.tokens 768 → 1024"),
        ({"fim": {"rate": 0.25}}, "pretrain.fim.rate 0.5 → 0.25"),
    ],
)
def test_a_run_with_other_settings_is_refused(train: Train, finished: Path, settings: dict[str, Any], named: str) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run with other settings") as error:
        train(finished, **settings)
    assert named in str(error.value)
    assert "--restart" in error.value.fix
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("entries", [512, 2048])
def test_a_model_for_another_tokenizer_is_refused(
    tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, entries: int
) -> None:
    preset = tiny_preset.with_changes({"model": {"vocab_size": entries}, "tokenizer": {"vocab_size": entries}})
    with pytest.raises(UserError, match=f"the run's tokenizer has 1,024 entries, the model wants {entries:,}"):
        pretrain(tmp_path / "pretrain", preset, tokens_dir, tokenizer_dir)
    assert not (tmp_path / "pretrain").exists()


def test_a_run_on_other_tokens_is_refused(finished: Path, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path) -> None:
    settings = json.loads((finished / "settings.json").read_text(encoding="utf-8"))
    settings["inputs"]["tokens"] = "0" * 64
    (finished / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (finished / "manifest.json").unlink()
    preset = load_preset(str(minute_preset)).with_training(tokens=3 * 256)
    with pytest.raises(UserError, match=r"other settings \(inputs\.tokens\)"):
        pretrain(finished, preset, tokens_dir, tokenizer_dir)


def test_restart_throws_the_old_run_away(train: Train, finished: Path) -> None:
    (finished / "stray").touch()
    manifest = train(finished, restart=True, learning_rate=1e-3)
    assert manifest.config["pretrain"]["learning_rate"] == 1e-3
    assert not (finished / "stray").exists()


def test_restart_throws_nothing_else_away(train: Train, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(UserError, match=r"--restart throws a training away, and .* is none; give another folder with --out"):
        train(tmp_path, restart=True)
    assert (tmp_path / "corpus").is_dir()
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "empty", restart=True).counts["steps"] == 3


def test_what_a_killed_process_was_writing_is_cleared_away(train: Train, tmp_path: Path) -> None:
    half = tmp_path / "run" / ".checkpoint-2.partial"
    half.mkdir(parents=True)
    train(tmp_path / "run")
    assert not half.exists()


def test_restart_with_data_that_there_is_not_throws_nothing_away(train: Train, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UserError, match=r"a factor of data\.mixture fits no document"):
        train(finished, restart=True, data={"mixture": {"factors": [{"language": "COBOL", "factor": 2}]}})
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize("name", ["settings.json", "budget.json"])
def test_a_damaged_record_is_named(train: Train, finished: Path, name: str) -> None:
    (finished / "manifest.json").unlink()
    (finished / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{finished / name} is damaged; start the run anew with --restart"):
        train(finished)


def test_a_damaged_shard_is_named(
    train: Train, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokens_dir, tmp_path / "tokens")
    shard = tmp_path / "tokens" / "train.ids"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match="the train shard is damaged"):
        pretrain(tmp_path / "pretrain", load_preset(str(minute_preset)), tmp_path / "tokens", tokenizer_dir)


def test_the_folder_says_what_it_is(finished: Path, minute_preset: Path) -> None:
    manifest = Manifest.read(finished)
    assert manifest.counts["steps"] == 3
    assert manifest.counts["tokens"] == 3 * 256
    assert load_preset(str(finished / "preset.yaml")) == load_preset(str(minute_preset)).with_training(tokens=3 * 256)
    assert manifest.config["model"]["layers"] == 1
    assert {"torch", "transformers", "accelerate"} <= manifest.libraries.keys()
    assert [path.name for path in checkpoint.found(finished)] == ["checkpoint-2", "checkpoint-3"]


def test_minutes_become_a_budget_that_is_recorded(
    train: Train, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MEASURED_SECONDS", 0.1)
    folder = tmp_path / "minutes"
    manifest = train(folder, minutes=1e-9)  # one step, whatever the machine
    recorded = Budget.read(folder)
    assert recorded
    assert recorded.steps == manifest.counts["steps"] == 1
    assert recorded.seconds_per_step
    # what was trained to measure is put back: the first step is that of any other run
    assert metrics.read(folder)[0]["loss"] == metrics.read(finished)[0]["loss"]
    assert metrics.read(folder)[0]["batch_crc32"] == metrics.read(finished)[0]["batch_crc32"]
    (folder / "manifest.json").unlink()
    Budget.of_tokens(2 * 256, 256).write(folder)  # resumed, the run keeps to what is recorded
    assert train(folder, minutes=1e-9).counts["steps"] == 2


def test_budgets() -> None:
    assert Budget.of_tokens(1000, 256).model_dump(exclude_none=True) == {"steps": 4, "tokens": 1024, "tokens_per_step": 256}
    assert Budget.of_tokens(1024, 256).steps == 4
    assert Budget.of_minutes(2, 256, 0.5).steps == 240
    assert Budget.of_minutes(0.001, 256, 0.5).steps == 1


def test_the_progress_is_told(run: Path, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path, tmp_path: Path) -> None:
    preset: Preset = load_preset(str(minute_preset)).with_training(tokens=4 * 256)
    told: list[tuple[float, float | None, dict[str, str]]] = []
    pretrain(
        tmp_path / "run",
        preset,
        tokens_dir,
        tokenizer_dir,
        progress=lambda done, total=None, **facts: told.append((done, total, facts)),
    )
    assert [done for done, _, _ in told] == [0, 256, 512, 768, 1024]
    assert {total for _, total, _ in told} == {1024}
    assert "loss" in told[-1][2]


def test_the_annealing_is_read_where_the_rate_begins_to_fall(train: Train, tmp_path: Path) -> None:
    decaying = {"tokens": 10 * 256, "schedule": "wsd", "decay_share": 0.3, "watch": {"evaluations": 0, "log_every": 1}}
    for name, data in (("plain", {}), ("annealed", {"anneal": {"fim_rate": 1, "repo_share": 1}})):
        train(tmp_path / name, **decaying, data=data)
    plain, annealed = ([row["batch_crc32"] for row in metrics.read(tmp_path / name)] for name in ("plain", "annealed"))
    assert len(plain) == len(annealed) == 10
    assert plain[:7] == annealed[:7]
    assert not set(plain[7:]) & set(annealed[7:])


def test_the_manifest_tells_what_the_packing_does(train: Train, tmp_path: Path) -> None:
    counts = train(tmp_path / "pretrain", data={"packing": "best_fit"}).counts
    assert counts["data"]["packing"] == "best_fit"
    assert 0 < counts["data"]["padding_share"] < 0.1


def test_an_annealing_without_a_decay_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs schedule wsd"):
        train(tmp_path / "pretrain", data={"anneal": {"fim_rate": 0.8}})
