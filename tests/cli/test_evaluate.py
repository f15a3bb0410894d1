"""`codelm evaluate`: one table for a model and what stands beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.evaluate import app
from codelm.errors import UserError

CODELM = [sys.executable, "-m", "cli.main"]
QUICK = ("--places", "4", "--tokens", "1024")


@pytest.fixture
def copy(run: Path, trained: Path, tmp_path: Path) -> Path:
    """A run folder of its own, with the stages of the shared one."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for stage in ("corpus", "tokenizer", "tokens", trained.name):
        (folder / stage).symlink_to(run / stage)
    return folder


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CODELM, "evaluate", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_a_model_its_baselines_and_others_stand_in_one_table(copy: Path, checkpoint: Path, gguf: Path) -> None:
    arguments = ("--run", copy, *QUICK, "--baselines", "--beside", checkpoint, "--beside", gguf)
    process = evaluate(*arguments)
    assert process.returncode == 0, process.stderr
    scores = json.loads((copy / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    names = [system["name"] for system in scores["systems"]]
    assert names == ["tiny", "5-gram", "most similar earlier line", str(checkpoint), "tiny-q8_0.gguf"]
    assert "5-gram" in process.stdout
    assert "4 whole line, 4 end of line" in process.stdout
    by_name = dict(zip(names, scores["systems"], strict=True))
    same = [by_name[name] | {"name": "", "whole_line": {}, "end_of_line": {}} for name in ("tiny", str(checkpoint))]
    assert same[0] == same[1], "it is the very same checkpoint"
    assert by_name["tiny-q8_0.gguf"]["whole_line"]["milliseconds"] > 0
    again = evaluate(*arguments, "--json")
    assert json.loads(again.stdout) == scores
    assert "unchanged" in again.stderr


def test_a_gguf_is_asked_as_it_is_served_and_needs_no_training_in_the_run(copy: Path, trained: Path, gguf: Path) -> None:
    (copy / trained.name).unlink()
    process = evaluate("--run", copy, *QUICK, "--model", gguf, "--baselines", "--json")
    assert process.returncode == 0, process.stderr
    system, *_ = json.loads(process.stdout)["systems"]
    assert system["name"] == "tiny-q8_0.gguf"
    assert system["bits_per_byte"] is None
    assert 0 <= system["end_of_line"]["edit_similarity"]["value"] <= 1
    assert (copy / "evaluate-tiny-q8_0" / "scores.json").exists()
    assert not (copy / "evaluate").exists()


def test_what_cannot_be_evaluated(copy: Path, gguf: Path, tmp_path: Path) -> None:
    cases = {
        ("--stage", "distill"): "holds no finished stage",
        ("--model", tmp_path / "none.gguf"): "does not exist",
        ("--checkpoint", tmp_path, "--model", gguf): "--checkpoint and --model are given both",
        ("--beside", gguf, "--beside", gguf): "would stand in the table twice",
        ("--infilling", tmp_path / "none.jsonl"): "cannot be read as an infilling set",
    }
    for arguments, told in cases.items():
        result = CliRunner().invoke(app, ["--run", str(copy), *QUICK, *map(str, arguments)])
        assert isinstance(result.exception, UserError)
        assert told in str(result.exception)
    process = evaluate("--run", copy, *QUICK, "--checkpoint", tmp_path)
    assert process.returncode == 2
    assert "holds no checkpoint" in process.stderr.splitlines()[-1]
    assert not (copy / "evaluate").exists()
