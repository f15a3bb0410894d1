"""The script that makes the default model, from a finished run to a folder that `codelm serve` takes."""

import json
import subprocess
import sys
from pathlib import Path

from codelm.default_model.locate import about, default_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_default_model.py"


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--places", "3", "--tokens", "1024", "--gate-places", "100"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_from_a_run_to_a_bundle(run: Path, trained: Path, permissive_corpus: Path, corpus: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "bundle"
    copy.mkdir()
    for stage in ("tokenizer", "tokens", trained.name):
        (copy / stage).symlink_to(run / stage)
    (copy / "corpus").symlink_to(corpus)
    refused = make(copy, "--out", out)
    assert refused.returncode == 1
    assert "error: its corpus was built with the licence policy" in refused.stderr
    assert not out.exists()
    (copy / "corpus").unlink()
    (copy / "corpus").symlink_to(permissive_corpus)
    process = make(copy, "--out", out, "--beside", copy / "export" / "tiny-q4_k_m.gguf")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"{out / 'tiny-q8_0.gguf'}: ")
    assert default_model(out) == out / "tiny-q8_0.gguf"
    manifest = about(out)
    assert manifest
    assert manifest.counts["tokens"] == 204_800
    systems = json.loads((out / "scores.json").read_text(encoding="utf-8"))["systems"]
    measured = ["tiny-q8_0.gguf", "tiny", "5-gram", "most similar earlier line"]
    assert [system["name"] for system in systems] == [*measured, "tiny-q4_k_m.gguf"]

    process = make(copy, "--out", out, "--rescore")
    assert process.returncode == 0, process.stderr
    systems = json.loads((out / "scores.json").read_text(encoding="utf-8"))["systems"]
    assert [system["name"] for system in systems] == measured
