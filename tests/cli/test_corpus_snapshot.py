"""The commands for a finished corpus, as a user runs them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.config.corpus import CorpusConfig
from codelm.corpus.build import build
from codelm.stage import Manifest, lock


def codelm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "corpus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small corpus."""
    top = tmp_path_factory.mktemp("corpus")
    source = top / "project"
    source.mkdir()
    for name in ("one", "two", "three", "four", "five", "[red]"):
        lines = "".join(f"def {name.strip('[]')}_{i}(x):\n    return x + {i}\n" for i in range(4))
        (source / f"{name}.py").write_text(lines)
    (source / "gpl.py").write_text("# SPDX-License-Identifier: GPL-3.0-only\ng = 1\ng2 = 2\ng3 = 3\n")
    config = {"sources": [str(source)], "licenses": {"unknown": "keep"}, "execution": {"workers": 1}}
    build(top / "run" / "corpus", CorpusConfig.model_validate(config))
    return top / "run"


@pytest.fixture
def run(tmp_path: Path, built: Path) -> Path:
    """A copy of it to be changed."""
    return Path(shutil.copytree(built, tmp_path / "run"))


def test_what_it_tells(run: Path, built: Path) -> None:
    """One process each, all well."""
    snapshot = Manifest.read(run / "corpus").counts["snapshot_id"]
    for arguments, said in (
        (("status", "--run", run), (snapshot, "6 of 7 files", "train", "valid")),
        (("licenses", "--run", run), ("GPL-3.0-only", "unknown")),
        (("why", "gpl.py", "--run", run), ("left out", "project/gpl.py", "rule", "license", "GPL-3.0-only")),
        (("why", "[red].py", "--run", run), ("project/[red].py", "Kept, for")),
        (("verify", "--run", run / "corpus"), ("whole", snapshot)),
        (("diff", run, built), ("The same code in both",)),
    ):
        result = codelm(*arguments)
        assert result.returncode == 0, result.stderr
        for text in said:
            assert text in result.stdout, (arguments, text)


def test_remove_then_diff_and_a_damaged_file(run: Path, built: Path) -> None:
    removed = codelm("remove", "project/one.py", "--run", run)
    assert removed.returncode == 0, removed.stderr
    assert "1 file removed, 5 left" in removed.stdout
    assert "opt_outs: ['project/one.py']" in removed.stdout
    compared = codelm("diff", built, run)
    assert compared.returncode == 1
    assert "removed 1" in compared.stdout
    assert "project/one.py" in compared.stdout
    assert "opt_outs" in compared.stdout
    (run / "corpus" / "NOTICE.txt").write_text("nothing to see\n")
    damaged = codelm("verify", "--run", run)
    assert damaged.returncode == 1
    assert damaged.stdout.strip() == "NOTICE.txt: changed since it was written"


def test_export(run: Path, tmp_path: Path) -> None:
    result = codelm("export", tmp_path / "code.jsonl", "--run", run, "--split", "train")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "code.jsonl").read_text().splitlines()]
    assert f"{len(rows)} rows" in result.stdout
    assert {row["split"] for row in rows} == {"train"}


def test_export_to_standard_output(run: Path) -> None:
    result = codelm("export", "-", "--run", run)
    assert result.returncode == 0, result.stderr
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 6
    assert "-: 6 rows" in result.stderr


def test_a_full_device_is_told(run: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "corpus", "export", "-", "--run", str(run)]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert result.returncode == 2
    assert "no space left" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_path_is_cut_where_there_is_no_terminal(run: Path, built: Path, tmp_path: Path) -> None:
    patterns = ["project/one.py", "project/one*", "project/one.p*", "project/on*", "project/o*"]
    assert codelm("remove", *patterns, "--run", run).returncode == 0
    long = tmp_path / ("long" * 40) / "run"
    shutil.copytree(run, long)
    assert any(str(long) in line for line in codelm("status", "--run", long).stdout.splitlines())
    settings = [line for line in codelm("diff", built, long).stdout.splitlines() if "opt_outs" in line]
    assert settings
    assert settings[0].rstrip().endswith(str(patterns))


def test_user_errors_are_one_line_and_exit_code_2(run: Path, tmp_path: Path) -> None:
    results = [
        codelm("why", "nothing.py", "--run", run),
        codelm("verify", "--run", tmp_path / "none"),
        codelm("remove", "nobody/*", "--run", run),
        codelm("export", tmp_path / "code", "--run", run),
        codelm("diff", run, tmp_path),
        codelm("licenses", "--run", tmp_path),
        codelm("status", "--run", tmp_path / "none"),
    ]
    with lock(run):
        results.append(codelm("remove", "project/one.py", "--run", run))
    for result in results:
        assert result.returncode == 2, result.args
        assert len(result.stderr.strip().splitlines()) == 1 or "remove" in result.args
        assert result.stderr.strip().splitlines()[-1].startswith("error: ")
        assert "Traceback" not in result.stderr
    assert "in use by process" in results[-1].stderr


def test_status_of_nothing(tmp_path: Path) -> None:
    result = codelm("status", "--run", tmp_path)
    assert result.returncode == 0
    assert "none is finished" in result.stdout


@pytest.mark.parametrize("command", ["status", "licenses", "why", "verify", "diff", "remove", "export"])
def test_help_has_an_example(command: str) -> None:
    result = codelm(command, "--help")
    assert result.returncode == 0
    assert f"Example: codelm corpus {command}" in " ".join(result.stdout.split())
