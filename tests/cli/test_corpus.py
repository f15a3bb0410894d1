"""`codelm corpus build` as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from codelm.stage import Manifest, lock


def codelm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "corpus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four modules, one of them under the GPL."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.py").write_text(f"# SPDX-License-Identifier: MIT\n{name} = 1\n{name}2 = {name}\n")
    (folder / "gpl.py").write_text("# SPDX-License-Identifier: GPL-3.0-only\ng = 1\ng2 = 2\n")
    return folder


def test_build_then_nothing_to_do(tmp_path: Path, source: Path) -> None:
    run = tmp_path / "run"
    first = codelm("build", source, "--run", run)
    assert first.returncode == 0, first.stderr
    assert "4 of 5 files kept" in first.stdout
    assert "rejected: license" in first.stdout
    assert "Traceback" not in first.stderr
    assert "INFO" not in first.stderr, "datatrove keeps quiet"
    again = codelm("build", source, "--run", run)
    assert "unchanged, nothing to do" in again.stdout


def test_options_override_the_file(tmp_path: Path, source: Path) -> None:
    config = tmp_path / "corpus.yaml"
    config.write_text(f"sources: [{source}]\nvalid_share: 0.1\nseed: 5\n")
    result = codelm("build", "--config", config, "--run", tmp_path / "run", "--valid-share", "0.3", "--allow-copyleft")
    assert result.returncode == 0, result.stderr
    manifest = Manifest.read(tmp_path / "run" / "corpus")
    assert (manifest.config["valid_share"], manifest.config["seed"]) == (0.3, 5)
    assert "copyleft" in manifest.config["licenses"]["allow"]
    assert manifest.counts["files_kept"] == 5


def test_user_errors_are_one_line_and_exit_code_2(tmp_path: Path, source: Path) -> None:
    run = tmp_path / "run"
    config = tmp_path / "corpus.yaml"
    config.write_text("sorces: []\n")
    results = [
        codelm("build", tmp_path / "none", "--run", run),
        codelm("build", source, "--run", run, "--valid-share", "7"),
        codelm("build", source, "--run", run, "--config", config),
    ]
    with lock(run):
        results.append(codelm("build", source, "--run", run))
    for result in results:
        assert result.returncode == 2
        assert result.stderr.strip().startswith("error: ")
        assert len(result.stderr.strip().splitlines()) == 1
    assert "in use by process" in results[-1].stderr
