"""The whole way from an exported model by the commands: encode, train on, export, serve."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.default_model.locate import about, default_model
from codelm.stage import Manifest, file_sha256
from training import metrics

pytestmark = pytest.mark.e2e


@pytest.fixture
def mine(corpus: Path, tmp_path: Path) -> Path:
    """A run folder with nothing but the corpus of one's own code."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "corpus").symlink_to(corpus)
    return tmp_path / "mine"


def codelm(*arguments: object) -> str:
    """What a command said."""
    command = [sys.executable, "-P", "-m", "cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun_with(folder: Path) -> str:
    """The name of the model that a finished training began with."""
    models = Manifest.read(folder).counts["models"]
    return str(next(iter(models.values()))["name"])


def test_trained_on_exported_and_served(mine: Path, gguf: Path, trained: Path) -> None:
    from serving.llamacpp import LlamaCpp

    assert "1,024 entries" in codelm("tokenizer", "encode", "--run", mine, "--tokenizer", gguf)
    little = ("--tokens", 8 * 2 * 512, "--set", "pretrain.learning_rate=3e-4", "--set", "pretrain.watch.log_every=1")
    codelm("train", "pretrain", "--run", mine, "--init", gguf, *little)
    assert begun_with(mine / "pretrain") == gguf.name
    losses = [row["loss"] for row in metrics.read(mine / "pretrain") if "loss" in row]
    fresh = next(row["loss"] for row in metrics.read(trained) if "loss" in row)
    assert losses[0] < fresh - 1
    codelm("evaluate", "--run", mine, "--places", 8, "--tokens", 4096)
    codelm("export", "--run", mine)
    card = (mine / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{gguf.name}` (SHA-256 `{file_sha256(gguf)[:16]}`)" in card
    read = {}
    for name, path in {"first": gguf, "after": mine / "export" / gguf.name}.items():
        model = LlamaCpp(path)
        read[name] = model.metadata.trained_tokens
        model.close()
    assert read["after"] == read["first"] + 8 * 2 * 512
    # and from what came of it, once more, by an adapter
    codelm("train", "lora", "--run", mine, "--base", mine / "export" / gguf.name, "--tokens", 2 * 2 * 512)
    assert begun_with(mine / "lora") == gguf.name
    assert (mine / "lora" / "merged" / "model.safetensors").is_file()


@pytest.mark.skipif(about() is None, reason="no default model has been made")
def test_from_the_model_that_codelm_brings_along(mine: Path) -> None:
    still = {"learning_rate": 1e-9, "muon_learning_rate": 1e-9, "batch_size": 1, "engine.micro_batch_size": 1}
    quick = {"engine.compile": "no", "watch.evaluations": 1, "watch.evaluation_places": 0}
    settings = [word for name, value in (still | quick).items() for word in ("--set", f"pretrain.{name}={value}")]
    codelm("train", "pretrain", "--run", mine, "--init", "default", "--tokens", 2 * 1024, *settings)
    assert begun_with(mine / "pretrain") == default_model().name
    manifest = about()
    assert manifest
    # on code that is much like what it has read, it knows it about as well as its card says; fresh weights have 3 or more
    assert Manifest.read(mine / "pretrain").counts["valid_bits_per_byte"] < manifest.counts["bits_per_byte"] + 0.3
