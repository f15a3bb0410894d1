"""Checkpoints are whole or not there."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codelm import checkpoints
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import build_model
from training import checkpoint
from training.data import Sample
from training.engine import Engine
from training.optimizers import adamw

Start = Callable[..., Any]


def some(tiny_preset: Preset, seed: int = 0) -> Engine:
    """A small model and its optimiser, a step done."""
    model = build_model(tiny_preset.model.model_copy(update={"layers": 1}), 0, 1, seed)
    engine = Engine(model, adamw(model, tiny_preset.pretrain), tiny_preset.pretrain)
    ids = torch.arange(8)[None]
    engine.backward(Sample(ids, ids + 1, torch.zeros_like(ids), ids), divisor=8)
    engine.update(1.0)
    return engine


def test_what_is_saved_is_restored(tiny_preset: Preset, tmp_path: Path) -> None:
    engine, other = some(tiny_preset), some(tiny_preset, seed=1)
    path = engine.save(tmp_path, 7)
    assert path == checkpoints.latest(tmp_path) == tmp_path / "checkpoint-7"
    assert other.restore(path) == 7
    assert all(torch.equal(a, b) for a, b in zip(engine.model.parameters(), other.model.parameters(), strict=True))
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight
    states = [of.strategy.moments() for of in (engine, other)]
    assert states[0].keys() == dict(engine.model.named_parameters()).keys()
    assert all(torch.equal(states[0][name][key], states[1][name][key]) for name in states[0] for key in states[0][name])


def test_the_order_of_the_optimisers_groups_does_not_matter(tiny_preset: Preset, tmp_path: Path) -> None:
    engine, other = some(tiny_preset), some(tiny_preset, seed=1)
    other.strategy.optimizer.param_groups.reverse()
    other.restore(engine.save(tmp_path, 7))
    norm = engine.model.model.norm.weight
    assert torch.equal(*(of.strategy.optimizer.state[of.model.model.norm.weight]["exp_avg"] for of in (engine, other)))
    assert engine.strategy.optimizer.state[norm]["exp_avg"].abs().sum() > 0


def test_only_the_newest_and_the_spared_are_kept(tiny_preset: Preset, tmp_path: Path) -> None:
    engine = some(tiny_preset)
    for step in (2, 9, 10, 100):
        engine.save(tmp_path, step)
    checkpoint.prune(tmp_path, 2, {"checkpoint-2", "checkpoint-7"})
    assert [path.name for path in checkpoint.found(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-100"]


def test_what_a_killed_process_left_is_no_checkpoint(tiny_preset: Preset, tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    engine = some(tiny_preset)
    for name in (".checkpoint-3.partial", ".checkpoint-5.partial", "checkpoint-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert checkpoints.latest(tmp_path) is None
    path = engine.save(tmp_path, 3)
    assert checkpoints.latest(tmp_path) == path
    checkpoints.verify(path)
    assert not (tmp_path / ".checkpoint-3.partial").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "config.json", checkpoint.STATE])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one byte"])
def test_a_damaged_checkpoint_is_named(tiny_preset: Preset, tmp_path: Path, name: str, damage: str) -> None:
    engine = some(tiny_preset)
    path = engine.save(tmp_path, 1)
    data = (path / name).read_bytes()
    middle = len(data) // 2
    if damage == "missing":
        (path / name).unlink()
    else:
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        (path / name).write_bytes({"empty": b"", "half": data[:middle], "one byte": flipped}[damage])
    with pytest.raises(
        UserError, match=rf"{path} is damaged \(.+\); delete that folder; training goes on from the checkpoint before"
    ):
        checkpoints.latest(tmp_path)


def test_a_checkpoint_of_another_model(tiny_preset: Preset, tmp_path: Path) -> None:
    engine = some(tiny_preset)
    path = engine.save(tmp_path, 1)
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        checkpoint.read(path, build_model(tiny_preset.model, 0, 1))


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [(13_000, 60), (1_000_000, 1e-6), (4_000_000, 1e-6)],
    ids=["of the log", "of the weights", "of the optimiser's state"],
)
def test_a_full_disk_leaves_the_checkpoint_that_stood(
    start: Start, uninterrupted: Path, tmp_path: Path, limit: int, seconds: float
) -> None:
    folder = tmp_path / "pretrain"
    shutil.copytree(uninterrupted, folder)
    (folder / "manifest.json").unlink()
    (folder / "checkpoint-40").rename(folder / "checkpoint-30")
    process = start(folder, watch={"checkpoint_seconds": seconds}, env={"CODELM_TEST_FILE_LIMIT": str(limit)})
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "file too large while writing; free some space" in err
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == ["checkpoint-20", "checkpoint-30"]
    checkpoints.verify(folder / "checkpoint-30")
