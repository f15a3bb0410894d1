"""Which checkpoint a path means."""

import json
import shutil
from pathlib import Path

import pytest

from codelm.checkpoints import given
from codelm.errors import UserError


@pytest.fixture
def lora(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a training that ended with an adapter."""
    folder = tmp_path / "run" / "lora"
    newest = folder / "checkpoint-7"
    newest.mkdir(parents=True)
    (newest / "state.json").write_text(json.dumps({"step": 7, "files": {}}), encoding="utf-8")
    return folder


def test_a_run_means_the_newest_of_its_pretraining(run: Path, trained: Path, checkpoint: Path) -> None:
    assert given(run, "--model") == given(trained, "--model") == given(checkpoint, "--model") == checkpoint


def test_an_adapter_means_what_it_was_merged_into(lora: Path, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=f"{lora} holds an adapter without its base; train it again, with --merge"):
        given(lora, "--model")
    shutil.copytree(checkpoint, lora / "merged")
    assert given(lora, "--model") == given(lora.parent, "--model") == lora / "merged"
    shutil.copytree(lora / "merged", lora.parent / "pretrain" / "checkpoint-1")
    assert given(lora.parent, "--model") == lora.parent / "pretrain" / "checkpoint-1"


def test_what_is_damaged_is_not_taken(lora: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, lora / "merged")
    (lora / "merged" / "config.json").write_text("{}", encoding="utf-8")
    for path in (lora, lora / "merged"):
        with pytest.raises(UserError, match=r"merged is damaged \(config\.json\)"):
            given(path, "--model")


def test_folders_without_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="holds no checkpoint; give --model the folder of a checkpoint"):
            given(path, "--model")
