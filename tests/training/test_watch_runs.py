"""What the files of trainings tell, whole or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.live import lines
from codelm.config.preset import load_preset
from codelm.errors import UserError
from training.watch_compare import picture
from training.watch_runs import Run, differences, find_runs, read_run, the_run


def make(folder: Path, rows: int = 30, **changes: Any) -> Path:
    """The files of a training that was interrupted. changes: of the preset nano's training."""
    preset = load_preset("nano").with_training(tokens=1_000_000, **changes)
    checkpoint = folder / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "state.json").write_text('{"step": 20, "files": {"model.safetensors": "0"}}', encoding="utf-8")
    (folder / "settings.json").write_text(
        json.dumps({"config": {}, "inputs": {"tokens": "0" * 64, "tokenizer": "1" * 64}}), encoding="utf-8"
    )
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset.model_dump(mode="json")), encoding="utf-8")
    (folder / "budget.json").write_text('{"steps": 50, "tokens": 102400, "tokens_per_step": 2048}', encoding="utf-8")
    (folder / "best.json").write_text('{"checkpoint": "checkpoint-20", "step": 20}', encoding="utf-8")
    lines = []
    for step in range(1, rows + 1):
        row = {"step": step, "tokens": 2048 * step, "seconds": 0.5 * step}
        lines.append(row | {"loss": 9 / step, "tokens_per_second": 4096.0, "mfu": 0.4, "memory_bytes": 1e9})
        if step % 10 == 0:
            lines.append(row | {"valid_bits_per_byte": 5 / step, "valid_exact_match": step / 100, "valid_edit_similarity": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_what_a_run_tells(tmp_path: Path) -> None:
    run = read_run(make(tmp_path / "mine" / "pretrain"))
    told = run.summary()
    assert (told["name"], told["preset"], told["stage"], told["state"]) == ("mine", "nano", "pretrain", "interrupted")
    assert (told["steps"], told["steps_planned"], told["tokens"], told["loss"]) == (30, 50, 30 * 2048, 0.3)
    assert (told["bits_per_byte"], told["exact_match"], told["tokens_per_second"]) == (5 / 30, 0.3, 4096)
    assert run.seconds_left == pytest.approx(20 * 2048 / 4096)
    assert run.changes() == {"pretrain.tokens": (None, 1_000_000)}
    assert any(file.startswith("metrics.jsonl ") for file in run.files())


def test_the_trainings_below_a_folder(tmp_path: Path, trained: Path) -> None:
    make(tmp_path / "a" / "pretrain")
    make(tmp_path / "a" / "distill")
    make(tmp_path / "b" / "deep" / "elsewhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "editor").mkdir()
    (tmp_path / "editor" / "settings.json").write_text("{}", encoding="utf-8")  # others have files of that name
    shutil.copytree(trained, tmp_path / "real" / "pretrain")
    found = {(run.name, run.stage): run for run in find_runs(tmp_path)}
    assert found.keys() == {("a", "pretrain"), ("a", "distill"), ("b/deep", "elsewhere"), ("real", "pretrain")}
    real = found["real", "pretrain"]
    assert (real.state, real.summary()["preset"], real.problems) == ("finished", "tiny", [])
    assert real.steps == real.summary()["steps_planned"] == 200
    assert [run.name for run in find_runs(tmp_path / "b")] == ["deep"]


def test_one_training_is_meant(tmp_path: Path) -> None:
    one = make(tmp_path / "a" / "pretrain")
    assert the_run(tmp_path / "a").folder == the_run(one).folder == the_run(tmp_path).folder == one
    make(tmp_path / "a" / "distill")
    assert the_run(tmp_path / "a").folder == one, "a run's pretraining, if there is more"
    with pytest.raises(UserError, match=r"holds 2 trainings \(a/distill, a/pretrain\)"):
        the_run(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        the_run(tmp_path / "b")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="holds no training"):
        the_run(tmp_path / "b")


def test_settings_that_differ(tmp_path: Path) -> None:
    runs = [
        read_run(make(tmp_path / name / "pretrain", **changes))
        for name, changes in {"a": {}, "b": {"learning_rate": 1e-3}, "c": {"fim": {"rate": 0.1}}}.items()
    ]
    assert differences(runs) == {"pretrain.learning_rate": [3e-3, 1e-3, 3e-3], "pretrain.fim.rate": [0.5, 0.5, 0.1]}
    assert differences(runs[:1]) == {}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("settings.json", "{", "settings.json cannot be read"),
        ("budget.json", "[1]", "budget.json is no mapping"),
        ("preset.yaml", "a: [", "preset.yaml cannot be read"),
        ("manifest.json", "{}", "manifest.json is not a readable manifest"),
        ("metrics.jsonl", "what\n", "metrics.jsonl begins with no row"),
        ("checkpoint-20/state.json", '{"files": {"optimizer.pt": "0"}}', "checkpoint-20 lacks optimizer.pt"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, name: str, text: str, problem: str) -> None:
    folder = make(tmp_path / "pretrain")
    (folder / name).write_text(text, encoding="utf-8")
    run = read_run(folder)
    assert run.state == "broken"
    assert [told.startswith(problem) for told in run.problems] == [True], run.problems


FILES = ("settings.json", "budget.json", "preset.yaml", "metrics.jsonl", "best.json", "checkpoint-20/state.json")
KEYS = ["step", "tokens", "steps", "files", "name", "loss", "seconds", "tokens_per_second", "valid_bits_per_byte", "inputs"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)
CONTENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()) | st.none()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), content=CONTENT)
def test_no_file_can_break_the_list(tmp_path: Path, name: str, content: bytes | None) -> None:
    """content: None for a file that is missing."""
    folder = tmp_path / "fuzzed" / "pretrain"
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    for run in find_runs(tmp_path):
        looked_at(run)


def looked_at(run: Run) -> None:
    """All that commands ask of a run."""
    assert json.dumps(run.summary())
    assert run.changes() is not None
    assert run.seconds_left is None or run.seconds_left >= 0
    assert run.files()
    assert isinstance(differences([run, run]), dict)
    assert all(line.cell_len <= 40 for line in lines(run, 40, 24))
    assert picture([run], ["it"])
