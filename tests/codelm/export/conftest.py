"""A trained model and its GGUF files for each architecture."""

from pathlib import Path
from typing import NamedTuple

import pytest

from codelm.config.preset import Preset
from codelm.export.export import export
from training.pretrain import pretrain


class Exported(NamedTuple):
    """A model, before and after."""

    preset: Preset
    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="session")
def llama(tiny_preset: Preset, checkpoint: Path, bundle: Path) -> Exported:
    return Exported(tiny_preset, checkpoint, bundle)


@pytest.fixture(scope="session")
def qwen3(run: Path, tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, corpus: Path) -> Exported:
    model = tiny_preset.model.model_copy(update={"architecture": "qwen3"})
    preset = tiny_preset.with_training(tokens=130 * 1024).model_copy(update={"model": model, "name": "tiny-qwen3"})
    folder = run / "pretrain-qwen3"
    trained = pretrain(folder, preset, tokens_dir, tokenizer_dir)
    checkpoint = folder / trained.counts["checkpoint"]
    scores = {"bits_per_byte": 2.5, "exact_match": None}
    export(run / "export-qwen3", preset, checkpoint, corpus, tokenizer_dir, trained, scores)
    return Exported(preset, checkpoint, run / "export-qwen3")


@pytest.fixture(params=["llama", "qwen3"])
def exported(request: pytest.FixtureRequest) -> Exported:
    """One for each architecture."""
    return request.getfixturevalue(request.param)
