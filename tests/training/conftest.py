"""Training processes, to be killed and started again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
Start = Callable[..., "Training"]


class Training(subprocess.Popen[str]):
    """A process that trains, or the launcher of several."""

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Returns when the training of a folder has logged the step."""
        while not (logged := metrics.read(folder)) or logged[-1]["step"] < step:
            assert self.poll() is None, self.communicate()
            time.sleep(0.002)

    def finish(self) -> str:
        """What was said by the time that it ended well."""
        out, err = self.communicate()
        assert self.returncode == 0, err
        return out


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
def start_all(run: Path, tokens_dir: Path, tokenizer_dir: Path, minute_preset: Path) -> Start:
    """Starts trainings one after the other, [(folder, settings), …], in a process of their own, or in several."""

    def start_all(jobs: Sequence[tuple[Path, dict[str, Any]]], ranks: int = 1, env: dict[str, str] | None = None) -> Training:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"] if ranks > 1 else []
        given = json.dumps([(str(folder), settings) for folder, settings in jobs])
        return Training(
            [sys.executable, *launcher, str(DRIVER), str(run), str(minute_preset), given],
            env={**os.environ, "PYTHONSAFEPATH": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_all


@pytest.fixture(scope="session")
def start(start_all: Start) -> Start:
    """Starts the training of a folder in a process of its own; settings are those of the preset's `pretrain`."""

    def start(folder: Path, ranks: int = 1, env: dict[str, str] | None = None, **settings: Any) -> Training:
        return start_all([(folder, settings)], ranks, env)

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
    start(folder).finish()
    return folder
