"""The log of a run."""

import json
import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codelm.errors import UserError
from training import metrics


def test_what_was_logged_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    with metrics.Metrics(tmp_path, 0) as log:
        for step in range(1, 6):
            log.log(step, loss=1 / step)
    with metrics.Metrics(tmp_path, 3) as log:
        log.log(4, loss=0.1)
    assert [(row["step"], row["loss"]) for row in metrics.read(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.1)]


def test_a_line_that_a_killed_process_left_half_written_is_no_row(tmp_path: Path) -> None:
    assert metrics.read(tmp_path) == []
    (tmp_path / metrics.FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]
    with metrics.Metrics(tmp_path, 2) as log:
        log.log(3, loss=1.0)
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 3]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_a_resumed_run_as_one_that_never_stopped(tmp_path: Path) -> None:
    with metrics.Metrics(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.log(step, loss=float(step))
    with metrics.Metrics(tmp_path, 1) as log:
        for step in (2, 3, 4):
            log.log(step, loss=float(10 * step), valid_bits_per_byte=1.5)
    assert scalars(tmp_path) == {
        "loss": [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)],
        "valid_bits_per_byte": [(2, 1.5), (3, 1.5), (4, 1.5)],
    }


def wandb_records(folder: Path) -> list[list[Any]]:
    """What stands in the file of each offline run, in the order of their start; each is smaller than a block of the format."""
    from wandb.proto import wandb_internal_pb2

    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, records = path.read_bytes()[7:], []
        while data:
            _checksum, length, _kind = struct.unpack("<IHB", data[:7])
            records.append(wandb_internal_pb2.Record.FromString(data[7 : 7 + length]))
            data = data[7 + length :]
        runs.append(records)
    return runs


def test_weights_and_biases_keeps_the_log_in_the_folder_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "mine" / "pretrain"
    for done in (0, 1):
        with metrics.Metrics(folder, done, wandb="codelm", settings={"pretrain": {"seed": 7}}) as log:
            log.log(done + 1, loss=1.5)
        time.sleep(1)  # their folders are named by the second
    runs = wandb_records(folder)
    rows = [
        {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for records in runs
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.5), (2, 1.5)]
    first, second = (next(record.run for record in records if record.WhichOneof("record_type") == "run") for records in runs)
    assert first.run_id == second.run_id, "a resumed run is the same run"
    assert (first.project, first.display_name) == ("codelm", "mine")
    assert {update.key: update.value_json for update in first.config.update}["pretrain"] == '{"seed":7}'
    told = str(runs)
    assert str(Path.cwd()) not in told, "where it ran is nobody's business"
    assert first.host != platform.node()


def test_weights_and_biases_without_an_account_is_refused(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from codelm.errors import UserError
from training.metrics import Metrics
try:
    Metrics(Path({str(tmp_path)!r}) / "pretrain", 0, wandb="codelm")
except UserError as error:
    print(error)
"""
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | home
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "No API key configured" in process.stdout
    assert "`wandb login`, or set WANDB_MODE=offline" in process.stdout
    assert not (tmp_path / "pretrain" / metrics.FILE).exists()


def test_without_its_package_weights_and_biases_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed; `pip install 'codelm\[wandb\]'`"):
        metrics.Metrics(tmp_path, 0, wandb="codelm")
    metrics.Metrics(tmp_path, 0).__exit__(None, None, None)
    assert not (tmp_path / "wandb").exists()
