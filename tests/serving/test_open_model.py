"""What a model may be: a GGUF, a checkpoint, the folder of a training, a run."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from codelm.corpus.read import fingerprint
from codelm.errors import UserError
from codelm.stage import Manifest
from serving.backend import Backend, Slice
from serving.llamacpp import LlamaCpp
from serving.open_model import open_model
from serving.transformers_backend import Transformers

CODE = "import os\n\n\ndef size(path):\n"


def read(model: Backend) -> npt.NDArray[np.float32]:
    """The scores after CODE."""
    ids = model.encode(CODE)
    return model.decode([Slice(0, ids, (len(ids) - 1,))])[0]


def test_without_bitsandbytes_it_says_what_to_install(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"--load-in 8bit needs the package bitsandbytes; pip install 'codelm\[qlora\]'"):
        open_model(checkpoint, load_in="8bit")


def test_where_bitsandbytes_cannot_compute_it_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def cannot(*arguments: Any) -> None:
        raise NotImplementedError("no kernel for this device")

    monkeypatch.setattr(bitsandbytes.nn.Linear8bitLt, "forward", cannot)
    with pytest.raises(UserError, match=r"cannot compute in 8bit on cpu \(no kernel for this device\); leave --load-in off"):
        open_model(checkpoint, device="cpu", load_in="8bit")


def test_a_run_and_its_training_mean_the_newest_checkpoint(run: Path, trained: Path, checkpoint: Path, gguf: Path) -> None:
    expected = read(Transformers(checkpoint, device="cpu", sequences=1))
    for path in (run, trained):
        opened = open_model(path, sequences=1, device="cpu")
        np.testing.assert_array_equal(read(opened), expected)
        opened.close()
    exported = open_model(gguf, sequences=1)
    assert isinstance(exported, LlamaCpp)
    exported.close()


def test_a_checkpoint_outside_of_its_run(checkpoint: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, folder)
    with pytest.raises(UserError, match=r"no tokenizer\.json there"):
        Transformers(folder)
    shutil.copy(tokenizer_dir / "tokenizer.json", folder)
    model, inside = (Transformers(path, device="cpu", sequences=1) for path in (folder, checkpoint))
    assert (model.metadata.name, model.context_length) == ("mine", inside.context_length)
    np.testing.assert_array_equal(read(model), read(inside))


def test_scores_of_other_weights_are_not_told(
    run: Path, trained: Path, checkpoint: Path, bundle: Path, tokenizer_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    for folder in (tokenizer_dir, corpus, run / "evaluate"):
        shutil.copytree(folder, tmp_path / folder.name)
    own = tmp_path / "pretrain" / checkpoint.name
    shutil.copytree(checkpoint, own)
    shutil.copy(trained / "preset.yaml", own.parent)
    told = Transformers(own, device="cpu", sequences=1)
    assert told.metadata.bits_per_byte == Manifest.read(run / "evaluate").counts["bits_per_byte"]
    assert told.metadata.corpus_fingerprint == fingerprint(corpus)
    state = json.loads((own / "state.json").read_text(encoding="utf-8"))
    state["files"]["model.safetensors"] = "0" * 64
    (own / "state.json").write_text(json.dumps(state), encoding="utf-8")
    other = Transformers(own, device="cpu", sequences=1)
    assert other.metadata.bits_per_byte is None
    assert other.metadata.trained_tokens == told.metadata.trained_tokens == 204_800


def changed(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")


def test_folders_that_are_no_models(checkpoint: Path, tokenizer_dir: Path, gguf: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder)
        shutil.copy(tokenizer_dir / "tokenizer.json", folder)
        return folder

    damaged, foreign, mute, adapter = copied("damaged"), copied("foreign"), copied("mute"), tmp_path / "lora" / "checkpoint-1"
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-1])
    for folder in (foreign, mute):
        (folder / "state.json").unlink()
    changed(foreign, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    text = (mute / "tokenizer.json").read_text(encoding="utf-8").replace("<|fim_middle|>", "<|fim_muddle|>")
    (mute / "tokenizer.json").write_text(text, encoding="utf-8")
    shutil.copytree(checkpoint, adapter)
    (adapter / "model.safetensors").unlink()
    state = json.loads((adapter / "state.json").read_text(encoding="utf-8"))
    del state["files"]["model.safetensors"]
    (adapter / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "empty", {}, "holds no checkpoint"),
        (damaged, {}, r"is damaged \(model.safetensors\)"),
        (foreign, {}, "gpt2"),
        (mute, {}, "is not a usable tokenizer"),
        (adapter.parent, {}, "holds an adapter without its base"),
        (tmp_path / "nowhere", {}, "does not exist"),
        (checkpoint, {"device": "tpu"}, "--device tpu is none that codelm knows"),
        (checkpoint, {"device": "mps"}, "--device mps is none that codelm knows"),
        (checkpoint, {"device": "cuda:99"}, r"--device cuda:99 is not there: torch sees \d+ CUDA devices"),
        (checkpoint, {"load_in": "2bit"}, "--load-in 2bit is none of 8bit, 4bit"),
        (gguf, {"load_in": "8bit"}, "--load-in is for checkpoints"),
        (gguf, {"device": "cpu"}, "--device is for checkpoints"),
    ]
    for path, options, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            open_model(path, **options)
        assert "\n" not in str(caught.value)


def test_another_tokenizer_in_the_run_is_noticed(trained: Path, checkpoint: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "pretrain" / checkpoint.name)
    for name in ("preset.yaml", "settings.json"):
        shutil.copy(trained / name, tmp_path / "pretrain")
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    Transformers(tmp_path / "pretrain" / checkpoint.name, device="cpu", sequences=1).close()
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="was trained with another tokenizer than"):
        Transformers(tmp_path / "pretrain" / checkpoint.name, device="cpu", sequences=1)


@pytest.mark.parametrize("missing", ["torch", "transformers", "tokenizers"])
def test_without_torch_it_says_what_to_install(checkpoint: Path, missing: str) -> None:
    script = f"""
import sys
sys.modules[{missing!r}] = None
sys.argv = ["codelm", "serve", {str(checkpoint)!r}, "--port", "0"]
from cli.main import main
main()
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert f"to serve a checkpoint needs the package {missing}; pip install 'codelm[train]'" in line


def test_a_run_is_served_over_http(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    """And `codelm complete` writes the same with the checkpoint itself."""
    source = tmp_path / "a.py"
    source.write_text("import os\n\n\ndef size(path):\n    return os.path.\n", encoding="utf-8")
    codelm = [sys.executable, "-m", "cli.main"]
    command = [*codelm, "serve", str(run), "--port", "0", "--threads", "1", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout
    url = re.search(r"http://\S+", server.stdout.readline())
    assert url, server.communicate()[1]
    answers = []
    for way in (("--server", url[0]), ("--model", str(checkpoint))):
        complete = [*codelm, "complete", f"{source}:5:20", *way, "--json"]
        process = subprocess.run(complete, capture_output=True, text=True, timeout=120)
        assert (process.returncode, process.stderr) == (0, "")
        answers.append(json.loads(process.stdout))
    assert [item["insertText"] for item in answers[0]["items"]] == [item["insertText"] for item in answers[1]["items"]]
    with httpx.Client(base_url=url[0], trust_env=False, timeout=60) as http:
        assert http.get("/v1/health").json()["status"] == "ok"
        (entry,) = http.get("/v1/models").json()["data"]
        assert (entry["id"], entry["meta"]["n_ctx"]) == ("tiny", 512)
        body = {"prompt": "def f(x):\n    ", "max_tokens": 8}
        assert http.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] > 0
    server.send_signal(signal.SIGINT)
    assert server.communicate(timeout=30) == ("", "")
