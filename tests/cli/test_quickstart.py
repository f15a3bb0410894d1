"""`codelm quickstart` as a user runs it: the whole way with a tiny preset, again, interrupted, and with bad input."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codelm.stage import Manifest, lock

TINY = Path(__file__).parents[1] / "fixtures" / "tiny.yaml"
CODELM = Path(sys.executable).with_name("codelm")
STAGES = ("corpus", "tokenizer", "tokens", "pretrain", "evaluate", "export")


def quickstart(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """No terminal: a server that was started is stopped after its first completion."""
    command = [CODELM, "quickstart", "--preset", TINY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def project(code_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: real code, and what real folders have besides."""
    folder = tmp_path_factory.mktemp("user") / "project"
    folder.mkdir()
    for path in sorted(code_dir.rglob("*.py"))[:40]:
        target = folder / path.relative_to(code_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (folder / "gpl.py").write_text(
        "# This program is free software; you can redistribute it under the terms of the GNU General\n"
        "# Public License as published by the Free Software Foundation.\n\nx = 1\ny = 2\nz = 3\n"
    )
    (folder / "binary.py").write_bytes(b"\x7fELF\0\0\0\1" * 100)
    (folder / "huge.py").write_text("x = 1\n" * 200_000)
    (folder / "broken.py").write_bytes(b"caf\xe9 = 1\n" * 20)
    (folder / "empty.py").touch()
    return folder


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that went the whole way, and what it printed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    result = quickstart("--corpus", project, "--minutes", "0.03", "--run", run, "--port", str(free_port()))
    assert result.returncode == 0, result.stderr
    return run, result.stdout


def test_ends_in_a_served_completion(finished: tuple[Path, str]) -> None:
    run, output = finished
    assert re.search(r"served by http://127\.0\.0\.1:\d+ in \d+ ms", output)
    assert "1 license" in output
    for name in STAGES:
        assert Manifest.read(run / name).stage == name
    assert (run / "pretrain" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (run / "export").glob("*.gguf")} == {
        f"tiny-{format_}.gguf" for format_ in ("f16", "q8_0", "q4_k_m")
    }


def test_says_what_was_dropped_and_why(finished: tuple[Path, str]) -> None:
    run, output = finished
    rejected = Manifest.read(run / "corpus").counts["rejected"]
    for reason in ("license", "binary", "size", "encoding"):
        assert rejected[reason] == 1
        assert f"1 {reason}" in output


def test_run_again_skips_what_is_finished(finished: tuple[Path, str], project: Path) -> None:
    run, _ = finished
    before = {name: (run / name / "manifest.json").stat().st_mtime_ns for name in STAGES}
    result = quickstart("--corpus", project, "--minutes", "0.03", "--run", run, "--no-serve")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("skipped") >= len(STAGES)
    assert {name: (run / name / "manifest.json").stat().st_mtime_ns for name in STAGES} == before


def test_other_settings_do_not_overwrite_a_training(finished: tuple[Path, str], project: Path) -> None:
    run, _ = finished
    before = Manifest.read(run / "pretrain")
    result = quickstart("--corpus", project, "--minutes", "0.05", "--run", run, "--no-serve")
    assert result.returncode == 2
    assert "minutes 0.03 → 0.05" in result.stderr
    assert "--restart" in result.stderr
    assert Manifest.read(run / "pretrain") == before


def test_ctrl_c_leaves_what_resumes(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [CODELM, "quickstart", "--preset", TINY, "--corpus", project, "--minutes", "0.5", "--run", run, "--no-serve"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    metrics = run / "pretrain" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    assert list((run / "pretrain").glob("checkpoint-*"))
    again = quickstart("--corpus", project, "--minutes", "0.5", "--run", run, "--no-serve")
    assert again.returncode == 0, again.stderr
    assert re.search(r"resuming at step \d+", again.stderr)


def test_one_line_and_the_fix(tmp_path: Path, project: Path) -> None:
    """Each bad input: exit code 2, one line on stderr, nothing made."""
    empty = tmp_path / "empty"
    empty.mkdir()
    text_only = tmp_path / "text"
    text_only.mkdir()
    (text_only / "README.txt").write_text("no code\n")
    malformed = tmp_path / "malformed.yaml"
    malformed.write_text("model: [1, 2\n")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(TINY.read_text().replace("layers:", "layer:"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cases = {
            ("--corpus", str(tmp_path / "nowhere")): "nowhere",
            ("--corpus", str(empty)): "empty",
            ("--corpus", str(text_only)): "no ",
            ("--preset", "nanno"): "no preset 'nanno'; use one of",
            ("--preset", str(malformed)): "malformed YAML",
            ("--preset", str(misspelt)): "did you mean 'layers'?",
            ("--preset", str(tmp_path / "none.yaml")): "no such file",
            ("--port", str(port), "--serve"): f"port {port} on 127.0.0.1 is in use",
        }
        for arguments, expected in cases.items():
            run = tmp_path / "run"
            default = [] if "--corpus" in arguments else ["--corpus", str(project)]
            serve = [] if "--serve" in arguments else ["--no-serve"]
            result = quickstart(*default, *arguments, *serve, "--run", run)
            assert result.returncode == 2, (arguments, result.stdout, result.stderr)
            errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
            assert len(errors) == 1, result.stderr
            assert expected in errors[0]
            assert "; " in errors[0], "the fix"
            assert "Traceback" not in result.stderr
            assert not (run / "corpus").exists()


def test_two_runs_in_one_folder(tmp_path: Path, project: Path) -> None:
    run = tmp_path / "run"
    with lock(run):
        result = quickstart("--corpus", project, "--run", run, "--no-serve")
    assert result.returncode == 2
    assert f"{run} is in use by process {os.getpid()}" in result.stderr


def test_folders_of_our_names_do_not_shadow_ours(finished: tuple[Path, str], project: Path, tmp_path: Path) -> None:
    for name in ("codelm", "training", "serving", "cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the decoy was imported')\n")
    run, _ = finished
    arguments = ("--corpus", project, "--minutes", "0.03", "--run", run, "--port", str(free_port()))
    result = quickstart(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "served by" in result.stdout


def test_a_damaged_checkpoint_is_neither_evaluated_nor_exported(finished: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for path in (run / "pretrain").glob("checkpoint-*/model.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    before = (run / "export" / "manifest.json").read_bytes()
    for command in ("evaluate", "export"):
        result = subprocess.run([CODELM, command, "--run", run], capture_output=True, text=True, timeout=120)
        assert result.returncode == 2
        assert "is damaged (model.safetensors)" in result.stderr
    assert (run / "export" / "manifest.json").read_bytes() == before


def test_a_run_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for command in (["evaluate"], ["export"], ["train", "pretrain"], ["tokenizer", "train"]):
        result = subprocess.run([CODELM, *command, "--run", tmp_path / "none"], capture_output=True, text=True, timeout=120)
        assert result.returncode == 2
        assert "no such run folder" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_run_folder_that_cannot_be_one(project: Path) -> None:
    result = quickstart("--corpus", project, "--run", "/dev/null/run", "--no-serve")
    assert result.returncode == 2
    assert result.stderr.startswith("error: /dev/null/run cannot be written to (Not a directory); ")
