"""`codelm doctor` on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli import doctor
from codelm.default_model import locate

CODELM = Path(sys.executable).with_name("codelm")


def test_finds_what_tests_need() -> None:
    result = subprocess.run([CODELM, "doctor", "--json"], capture_output=True, text=True, timeout=120)
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0, result.stdout
    assert found["torch"]["state"] == found["llama-cpp-python"]["state"] == "ok"
    assert f"{os.cpu_count()} threads" in found["cpu"]["found"]


def test_names_the_fix_of_what_is_missing(tmp_path: Path) -> None:
    """Without a compiler on the PATH there is a warning with its fix, and no failure."""
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": "nowhere"}
    result = subprocess.run([CODELM, "doctor"], capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0
    assert "install g++ or clang++" in result.stdout


def test_a_library_that_does_not_load_is_a_problem(tmp_path: Path) -> None:
    broken = tmp_path / "llama_cpp"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libllama.so: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([CODELM, "doctor", "--json"], capture_output=True, text=True, timeout=120, env=environment)
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 1
    assert found["llama-cpp-python"]["state"] == "problem"
    assert "cannot open shared object" in found["llama-cpp-python"]["found"]
    assert "pip install" in found["llama-cpp-python"]["fix"]


def test_it_knows_the_default_model(default_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(bundle: Path) -> doctor.Finding:
        monkeypatch.setattr(locate, "BUNDLE", bundle)
        return doctor.default_model()

    assert found(default_bundle).state == "ok"
    assert "tiny-q8_0.gguf" in found(default_bundle).found
    none = found(tmp_path)
    assert none.state == "warning"
    assert none.fix
    damaged = tmp_path / "bundle"
    shutil.copytree(default_bundle, damaged)
    (damaged / "tiny-q8_0.gguf").unlink()
    assert "is damaged" in found(damaged).found
