"""Checkpoints are whole or not there."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import build_model
from training import checkpoint
from training.optimizers import adamw

Start = Callable[..., "subprocess.Popen[str]"]


def some(tiny_preset: Preset, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small model and its optimiser, a step done."""
    model = build_model(tiny_preset.model.model_copy(update={"layers": 1}), 0, 1, seed)
    optimizer = adamw(model, tiny_preset.pretrain)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    return model, optimizer


def test_what_is_saved_is_restored(tiny_preset: Preset, tmp_path: Path) -> None:
    model, optimizer = some(tiny_preset)
    path = checkpoint.save(tmp_path, 7, model, optimizer)
    assert path == checkpoint.latest(tmp_path) == tmp_path / "checkpoint-7"
    other, its_optimizer = some(tiny_preset, seed=1)
    assert checkpoint.restore(path, other, its_optimizer) == 7
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert other.lm_head.weight is other.model.embed_tokens.weight  # type: ignore[union-attr]
    states = [opt.state_dict()["state"] for opt in (optimizer, its_optimizer)]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])


def test_only_the_newest_and_the_spared_are_kept(tiny_preset: Preset, tmp_path: Path) -> None:
    model, optimizer = some(tiny_preset)
    for step in (2, 9, 10, 100):
        checkpoint.save(tmp_path, step, model, optimizer)
    checkpoint.prune(tmp_path, 2, {"checkpoint-2", "checkpoint-7"})
    assert [path.name for path in checkpoint.found(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-100"]


def test_what_a_killed_process_left_is_no_checkpoint(tiny_preset: Preset, tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    model, optimizer = some(tiny_preset)
    for name in (".checkpoint-3.partial", ".checkpoint-5.partial", "checkpoint-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    path = checkpoint.save(tmp_path, 3, model, optimizer)
    assert checkpoint.latest(tmp_path) == path
    checkpoint.verify(path)
    assert not (tmp_path / ".checkpoint-3.partial").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "config.json", checkpoint.STATE])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one byte"])
def test_a_damaged_checkpoint_is_named(tiny_preset: Preset, tmp_path: Path, name: str, damage: str) -> None:
    model, optimizer = some(tiny_preset)
    path = checkpoint.save(tmp_path, 1, model, optimizer)
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
        checkpoint.latest(tmp_path)


def test_a_checkpoint_of_another_model(tiny_preset: Preset, tmp_path: Path) -> None:
    model, optimizer = some(tiny_preset)
    path = checkpoint.save(tmp_path, 1, model, optimizer)
    other = build_model(tiny_preset.model, 0, 1)
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        checkpoint.restore(path, other, adamw(other, tiny_preset.pretrain))


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
    checkpoint.verify(folder / "checkpoint-30")
