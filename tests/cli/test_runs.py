"""`codelm runs`, as a user runs it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.run_folder import marked_as_running


def runs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "runs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def root(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, the same interrupted with another setting, and one whose files are broken."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, root / "whole" / "pretrain")
    other = Path(shutil.copytree(trained, root / "other" / "pretrain"))
    (other / "manifest.json").unlink()
    preset = other / "preset.yaml"
    preset.write_text(preset.read_text(encoding="utf-8").replace("seed: 0", "seed: 3", 1), encoding="utf-8")
    broken = root / "broken" / "pretrain"
    broken.mkdir(parents=True)
    for name in ("settings.json", "preset.yaml"):
        (broken / name).write_text("{", encoding="utf-8")
    return root


def test_the_list(root: Path) -> None:
    result = runs("list", root)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["name", "preset", "stage", "state"]
    for name, preset, state in (("whole", "tiny", "finished"), ("other", "tiny", "interrupted"), ("broken", "–", "broken")):
        assert any(line.split()[:4] == [name, preset, "pretrain", state] for line in lines), result.stdout
    assert any("settings.json cannot be read" in line for line in lines)
    told = {run["name"]: run for run in json.loads(runs("list", root, "--json").stdout)}
    assert told["whole"]["steps"] == 200
    assert told["whole"]["bits_per_byte"] > 1
    assert told["broken"]["problems"]


def test_where_there_is_nothing(tmp_path: Path) -> None:
    result = runs("list", tmp_path)
    assert result.returncode == 0
    assert "holds no training" in result.stdout
    for arguments in (("list", tmp_path / "none"), ("show", tmp_path), ("watch", tmp_path), ("compare", tmp_path, tmp_path)):
        result = runs(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr


def test_show(root: Path) -> None:
    result = runs("show", root / "other")
    assert result.returncode == 0, result.stderr
    assert "other: tiny, interrupted" in result.stdout
    assert "held out at 200" in result.stdout
    assert "metrics.jsonl" in result.stdout
    told = json.loads(runs("show", root / "whole", "--json").stdout)
    assert told["checkpoints"][-1] == "checkpoint-200"
    assert told["best"]["checkpoint"] in told["checkpoints"]
    assert told["manifest"]["parameters"] > 1e6
    assert told["evaluations"][-1]["step"] == 200


def test_compare_makes_a_page_that_needs_no_network_and_a_picture(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "it.html"
    result = runs("compare", root / "whole", root / "other", "--out", page)
    assert result.returncode == 0, result.stderr
    assert re.search(r"pretrain\.seed +0  \|  3", result.stdout)
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    assert "pretrain.seed" in text
    assert "<svg" in text
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", text), "nothing is fetched"
    told = json.loads(runs("compare", root / "whole", root / "other", root / "broken", "--out", page, "--json").stdout)
    assert told["differing_settings"]["pretrain.seed"] == [0, 3, None]
    assert [run["state"] for run in told["runs"]] == ["finished", "interrupted", "broken"]


def test_a_page_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "it.html", tmp_path / "it.pdf"):
        result = runs("compare", root / "whole", root / "other", "--out", out)
        assert result.returncode == 2
        assert "--out" in result.stderr
        assert "Traceback" not in result.stderr


def test_watch_ends_with_the_run(root: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(root / "other", tmp_path / "mine"))
    command = [sys.executable, "-m", "cli.main", "runs", "watch", str(run)]
    with marked_as_running(run / "pretrain"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline().startswith("held out at 200")
        with (run / "pretrain" / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"step": 250, "tokens": 1, "valid_bits_per_byte": 1.5, "valid_exact_match": 0.25}\n')
        assert process.stdout.readline() == "held out at 250: 1.500 bits/byte, 25.0% exact\n"
        assert process.poll() is None
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "mine: interrupted at step 250\n"
    assert runs("watch", root / "whole").stdout.endswith("whole: finished at step 200\n")


@pytest.mark.parametrize("name", ["metrics.jsonl", "preset.yaml", "budget.json", "best.json", "settings.json"])
def test_files_of_others_make_no_traceback(root: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(root / "other", tmp_path / "mine"))
    (run / "pretrain" / name).write_bytes(b"\xff\xfe{")
    result = runs("list", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mine" in result.stdout
