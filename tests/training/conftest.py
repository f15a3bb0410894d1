"""Training processes, to be killed and started again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelm.config.preset import Preset, load_preset
from codelm.progress import Progress, silent
from codelm.stage import Manifest
from training import metrics
from training.pretrain import pretrain

DRIVER = Path(__file__).parent / "driver.py"
Train = Callable[..., Manifest]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def minute_preset(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose step takes some milliseconds, for a run of 40 steps."""
    values = tiny_preset.model_dump(mode="json")
    values["model"] |= {"layers": 1, "ffn": 256, "context_length": 64}
    values["pretrain"] |= {
        "tokens": 40 * 4 * 64, "batch_size": 4,
    }  # fmt: skip
    values["pretrain"]["engine"] |= {"micro_batch_size": 2}
    values["pretrain"]["watch"] |= {"log_every": 1, "evaluations": 2, "evaluation_places": 8}
    path = tmp_path_factory.mktemp("preset") / "minute.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def start(run: Path, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path) -> Start:
    """Starts the training of a folder in a process of its own; settings are those of the preset's `pretrain`."""

    def start(folder: Path, *launcher: str, env: dict[str, str] | None = None, **settings: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*(launcher or [sys.executable]), str(DRIVER), str(folder), str(run), str(minute_preset), json.dumps(settings)],
            env={**os.environ, "PYTHONSAFEPATH": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def train(run: Path, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path) -> Train:
    """Trains in this process, a few steps; settings are those of the preset's `pretrain`."""

    def train(
        folder: Path,
        restart: bool = False,
        tokens: int = 3 * 256,
        progress: Progress = silent,
        say: Callable[[str], None] = lambda line: None,
        **settings: Any,
    ) -> Manifest:
        preset = load_preset(str(minute_preset)).with_training(
            **({"tokens": tokens} if "minutes" not in settings else {}) | settings
        )
        return pretrain(folder, preset, tokens_dir, tokenizer_dir, progress, restart, say)

    return train


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """What a run logged, but for what depends on the machine and its mood."""

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [{key: row[key] for key in row if key not in metrics.TIMING} for row in metrics.read(folder)]

    return rows


@pytest.fixture(scope="session")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from the first step to the last in one go."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "pretrain"
    process = start(folder)
    assert process.wait() == 0, process.communicate()[1]
    return folder
