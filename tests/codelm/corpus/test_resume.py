"""A build that is killed at any moment goes on where it stopped and comes to the same snapshot."""

import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from codelm.stage import Manifest

MOMENTS = 10


def start(source: Path, run: Path) -> subprocess.Popen[bytes]:
    config = run.parent / "corpus.yaml"
    config.write_text(f"sources: [{source}]\nlicenses: {{unknown: keep}}\nexecution: {{workers: 2, piece_mb: 1}}\n")
    command = [sys.executable, "-m", "cli.main", "corpus", "build", "--run", str(run), "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def all_gone(group: int) -> bool:
    """Whether all processes of a group end within ten seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_kill_at_ten_moments(tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    source = tmp_path / "project"
    for name in ("asyncio", "concurrent", "ctypes", "email", "html", "http", "importlib", "json", "logging", "xml", "unittest"):
        shutil.copytree(library / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    began = time.monotonic()
    assert start(source, tmp_path / "whole").wait(timeout=300) == 0
    seconds = time.monotonic() - began
    whole = Manifest.read(tmp_path / "whole" / "corpus")
    moments = random.Random(0)
    killed = 0
    for number in range(MOMENTS):
        run = tmp_path / f"killed-{number}"
        process = start(source, run)
        time.sleep(moments.uniform(0.1, 0.95) * seconds)
        # with its workers, or without: then they have to notice
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL  # it may have ended by itself, and must not be reaped before the kill
        if number == 0:
            assert all_gone(process.pid), "its workers are still there"
        assert not (run / "corpus" / "snapshot").exists() or (run / "corpus" / "manifest.json").exists(), "half a snapshot"
        assert start(source, run).wait(timeout=300) == 0
        resumed = Manifest.read(run / "corpus")
        assert resumed.counts["snapshot_id"] == whole.counts["snapshot_id"]
        assert resumed.outputs == whole.outputs
        shutil.rmtree(run)
    assert killed >= MOMENTS // 2
