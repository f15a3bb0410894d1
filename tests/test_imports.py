"""The rules of the house: who imports whom, and what a command may load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("codelm", "training", "serving", "cli")
CODELM = Path(sys.executable).parent / "codelm"


def test_the_import_contracts_hold() -> None:
    environment = {**os.environ, "COLUMNS": "200"}
    lint = [str(Path(sys.executable).parent / "lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    process = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 broken" in process.stdout
    assert "3 kept" in process.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["codelm", *{arguments!r}]
from cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "llama_cpp", "transformers", "tokenizers", "numpy", "pyarrow", "datatrove", "fastapi", "accelerate"}}
print("HEAVY", sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "HEAVY []"


def test_folders_of_our_names_where_the_user_stands_do_not_shadow_ours(tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"raise SystemExit('the decoy {room} was imported')\n", encoding="utf-8")
    for arguments in (["--help"], ["corpus", "--help"], ["complete", "a.py:1:1", "--model", "none.gguf"]):
        process = subprocess.run([CODELM, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert "decoy" not in process.stdout + process.stderr
        assert process.returncode == (2 if "complete" in arguments else 0), process.stderr


def test_data_workers_do_not_import_from_where_the_user_stands(
    tmp_path: Path, run: Path, tokens_dir: Path, tokenizer_dir: Path
) -> None:
    """Even where processes are started anew, as on macOS, and not forked."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"raise SystemExit('the decoy {room} was imported')\n", encoding="utf-8")
    code = """
import multiprocessing, sys
from pathlib import Path
from codelm.config.data import FimConfig
from codelm.corpus.tokens import open_shard
from codelm.tokenizer import FILE, Tokenizer
from training.data import PackedSamples, StepBatches, loader
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    run = Path(sys.argv[1])
    samples = PackedSamples(open_shard(run / "tokens", "train"), Tokenizer(run / "tokenizer" / FILE), FimConfig(), 64, 0)
    batches = [list(loader(samples, StepBatches(0, 3, 2, 1, 0, 1), workers)) for workers in (0, 1)]
    assert all((a == b).all() for one, other in zip(*batches) for a, b in zip(one, other))
"""
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code, encoding="utf-8")
    process = subprocess.run([sys.executable, str(script), str(run)], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
