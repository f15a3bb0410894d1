"""`--ranks`: the same command in several processes, which start, speak, stop and fail as one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import typer
import yaml
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from cli.ranks import launched_for, tell
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.run_folder import found
from training import metrics
from training.loop import TOLD

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def preset_file(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of some milliseconds, more of them than a test waits for."""
    values = tiny_preset.model_dump(mode="json")
    values["model"] |= {"layers": 1, "ffn": 256, "context_length": 64}
    values["pretrain"] |= {"batch_size": 4, "tokens": 100_000 * 4 * 64}
    values["pretrain"]["engine"] |= {"micro_batch_size": 2}
    values["pretrain"]["watch"] |= {"log_every": 1, "evaluations": 0}
    path = tmp_path_factory.mktemp("preset") / "long.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def command(run: Path, tokens_dir: Path, preset_file: Path, tmp_path: Path) -> Command:
    """Starts `codelm train pretrain --ranks 2` where folders have our packages' names."""
    for room in ("codelm", "training", "serving", "cli"):
        (tmp_path / "here" / room).mkdir(parents=True)
        (tmp_path / "here" / room / "__init__.py").write_text("raise SystemExit('the decoy was imported')\n", encoding="utf-8")

    def command(*options: str) -> "subprocess.Popen[str]":
        program = [sys.executable, "-m", "cli.main", "train", "pretrain", "--run", str(run), "--preset", str(preset_file)]
        return subprocess.Popen(
            [*program, "--ranks", "2", "--out", str(tmp_path / "out"), *options],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            cwd=tmp_path / "here",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return command


def wait_for_step(process: "subprocess.Popen[str]", folder: Path, step: int) -> list[psutil.Process]:
    """The processes that train, when they have logged a step."""
    while not (rows := metrics.read(folder)) or rows[-1]["step"] < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    ranks = {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children() if child.is_running()}
    return [ranks[0], ranks[1]]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def failure(folder: Path, rank: int, exitcode: int, message: str | None = None) -> ProcessFailure:
    """What torch's launcher tells of a process that ended badly, with what the process has left."""
    path = folder / f"{rank}.json"
    if message is not None:
        extra = {"py_callstack": f"Traceback of {rank}", "timestamp": "0"}
        path.write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}), encoding="utf-8")
        os.utime(path, ns=(99 - rank, 99 - rank))  # the last rank was the first to fail
    return ProcessFailure(rank, 1, exitcode, str(path))


def test_one_process_does_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launched_for(1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not launched_for(2)


def test_the_first_error_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "RuntimeError: Connection closed by peer"
    with pytest.raises(UserError) as raised:  # a user's error before what came of it
        tell({0: failure(tmp_path, 0, 1, broken), 1: failure(tmp_path, 1, 2, "UserError: what; or; why; the fix")})
    assert (raised.value.message, raised.value.fix) == ("what; or; why", "the fix")
    with pytest.raises(UserError, match=r"rank 1 was killed \(SIGKILL\)"):
        tell({0: failure(tmp_path, 0, 1, broken), 1: ProcessFailure(1, 1, -signal.SIGKILL, str(tmp_path / "none"))})
    with pytest.raises(typer.Exit) as ended:  # of two crashes the earlier one
        tell({0: failure(tmp_path, 0, 1, broken), 1: failure(tmp_path, 1, 1, "KeyError: 'x'")})
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "Traceback of 1\n"
    with pytest.raises(typer.Exit) as ended:
        tell({0: failure(tmp_path, 0, 130), 1: failure(tmp_path, 1, -signal.SIGTERM)})
    assert ended.value.exit_code == 130


@pytest.mark.e2e
def test_two_processes_speak_as_one(command: Command, tmp_path: Path) -> None:
    process = command("--tokens", str(6 * 256))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert re.fullmatch(r"\S+/out/checkpoint-6: 1,536 tokens, \S+ epochs; see \S+loss.png\n", out), out
    assert re.fullmatch(r"pretrain …  6 steps of 256 tokens.*\npretrain: done\n", err)
    assert [row["step"] for row in metrics.read(tmp_path / "out") if "loss" in row] == [1, 2, 3, 4, 5, 6]


@pytest.mark.e2e
def test_an_error_of_all_is_told_once(command: Command, tmp_path: Path) -> None:
    process = command("--set", "pretrain.batch_size=3", "--set", "pretrain.engine.micro_batch_size=3")
    out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert err == (
        "error: batch_size 3 cannot be shared out among 2 ranks with micro-batches of 3; give a batch_size that is a multiple"
        " of 6, or another engine.micro_batch_size\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "launcher"), (signal.SIGTERM, "launcher"), (signal.SIGTERM, "rank")]
)
def test_a_signal_to_one_stops_all_at_one_step(command: Command, tmp_path: Path, number: int, whom: str) -> None:
    process, folder = command(), tmp_path / "out"
    ranks = wait_for_step(process, folder, 3)
    os.kill(process.pid if whom == "launcher" else ranks[1].pid, number)
    _, err = process.communicate()
    assert process.returncode == 130, err
    first, *told, last = err.splitlines()
    assert first.startswith("pretrain …")
    assert told in ([], ["", TOLD.strip()]), err
    assert last == "interrupted; the same command goes on from here"
    assert all(map(has_ended, ranks))
    done = metrics.read(folder)[-1]["step"]
    assert [path.name for path in found(folder)] == [f"checkpoint-{done}"]


@pytest.mark.e2e
def test_what_becomes_of_a_rank_or_its_launcher_ends_all(command: Command, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = command()
    ranks = wait_for_step(process, folder, 3)
    other = command()  # one training at a time in a run
    _, err = other.communicate()
    assert other.returncode == 2
    assert f"error: {run} is in use by process {ranks[0].pid}; wait for it" in err
    ranks[1].kill()
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(
        "error: rank 1 was killed (SIGKILL); the same command goes on from the last checkpoint"
    )
    assert all(map(has_ended, ranks))

    folder = tmp_path / "again"
    process = command("--out", str(folder))
    ranks = wait_for_step(process, folder, 3)
    process.kill()  # nobody is left to end them
    psutil.wait_procs(ranks, timeout=60)
    assert all(map(has_ended, ranks))
    assert [path.name for path in found(folder)] == [f"checkpoint-{metrics.read(folder)[-1]['step']}"]


@pytest.mark.e2e
def test_the_job_for_slurm_ends_with_a_checkpoint_and_comes_again(
    run: Path, tokens_dir: Path, preset_file: Path, tmp_path: Path
) -> None:
    """The script as it is, on a cluster of this one machine: its commands start what they are given, here."""
    shared, bin_, requeued = tmp_path / "shared", tmp_path / "bin", tmp_path / "requeued"
    shared.mkdir()
    for stage in ("corpus", "tokenizer", "tokens"):
        (shared / stage).symlink_to(run / stage)
    bin_.mkdir()
    for name, lines in {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo localhost; else echo "$@" > {requeued}; fi',
    }.items():
        (bin_ / name).write_text(f"#!/usr/bin/env bash\n{lines}\n", encoding="utf-8")
        (bin_ / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7"}
    path = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = subprocess.Popen(
        ["bash", str(Path(__file__).parents[2] / "examples" / "slurm.sh"), str(shared), str(preset_file)],
        env={**os.environ, **slurm, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = shared / "pretrain"
    while not (rows := metrics.read(folder)) or rows[-1]["step"] < 3:
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate()
    assert job.returncode == 0, err
    assert requeued.read_text(encoding="utf-8") == "requeue 7\n"
    assert [path.name for path in found(folder)] == [f"checkpoint-{metrics.read(folder)[-1]['step']}"]


@pytest.mark.e2e
def test_two_machines_with_a_rank_each(run: Path, tokens_dir: Path, preset_file: Path, tmp_path: Path) -> None:
    """The command of the guide, by two agents of torchrun that know each other by an address alone, both on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    out = tmp_path / "pretrain"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "-m", "--", "cli.main", "train", "pretrain"]
    options = ["--run", str(run), "--preset", str(preset_file), "--out", str(out), "--set", "pretrain.engine.strategy=fsdp2"]
    agents = [
        subprocess.Popen(
            [*launcher, *options, "--set", f"pretrain.tokens={8 * 4 * 64}"],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [agent.communicate()[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert [row["step"] for row in metrics.read(out) if "loss" in row] == list(range(1, 9)), "one writes, and each step once"
    assert [path.name for path in found(out)] == ["checkpoint-8"]
