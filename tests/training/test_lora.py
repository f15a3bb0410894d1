"""A base model that learns a user's code by an adapter."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file

from codelm.checkpoints import verify
from codelm.config.preset import load_preset
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.export.bundle import BASE_KEY, BundleMetadata
from codelm.export.gguf import reading, write_f16
from codelm.export.restore import restore
from codelm.fim import Order
from codelm.models import load_model, weights_sha256
from codelm.run_folder import found
from codelm.stage import Manifest, file_sha256
from codelm.tokenizer import FILE, Tokenizer
from training import metrics, origin
from training.engine import Engine
from training.lora import lora, preset_of
from training.pretrain import pretrain

STEPS, BATCH, LENGTH = 6, 4, 64
Train = Callable[..., Manifest]


@pytest.fixture(scope="module")
def base(minute_preset: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to train upon; its training had what that of an adapter has not."""
    preset = load_preset(str(minute_preset)).with_training(
        tokens=10 * BATCH * LENGTH, schedule="wsd", weight_decay=0.1, optimizer="muon", data={"anneal": {"fim_rate": 0.9}}
    )
    folder = tmp_path_factory.mktemp("base") / "pretrain"
    pretrain(folder, preset, tokens_dir, tokenizer_dir)
    return found(folder)[-1]


@pytest.fixture
def train(base: Path, tokens_dir: Path, tokenizer_dir: Path) -> Train:
    def train(folder: Path, restart: bool = False, merge: bool = True, **settings: Any) -> Manifest:
        preset = preset_of(base).with_changes({"lora": settings.pop("lora", {})})
        preset = preset.with_training(**({"tokens": STEPS * BATCH * LENGTH} | settings))
        return lora(folder, preset, tokens_dir, tokenizer_dir, base, restart=restart, merge=merge)

    return train


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics.read(folder) if "loss" in row]


def ids_of(tokens_dir: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(open_shard(tokens_dir, "valid").ids[:LENGTH], dtype=np.int64))[None]


def test_only_the_adapter_is_trained_and_kept(train: Train, base: Path, tokens_dir: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in base.iterdir()}
    manifest = train(tmp_path / "lora", lora={"r": 4, "target_modules": ["q_proj", "down_proj"]})
    model = load_model(base).config
    per_layer = 4 * (2 * model.hidden_size + model.intermediate_size + model.hidden_size)
    assert manifest.counts["trained_parameters"] == per_layer * model.num_hidden_layers
    checkpoint = found(tmp_path / "lora")[-1]
    assert {path.name for path in checkpoint.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "state.json",
    }  # fmt: skip
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == manifest.counts["trained_parameters"]
    assert all(tensor.any() for tensor in tensors.values()), "lora_B begins with zeros, and has learned"
    assert {path: path.read_bytes() for path in base.iterdir()} == before
    preset = load_preset(str(tmp_path / "lora" / "preset.yaml"))
    assert preset.pretrain.optimizer == "adamw"
    assert preset.pretrain.data.anneal is None


def test_the_results_agree(train: Train, base: Path, tokens_dir: Path, tmp_path: Path) -> None:
    learned = train(tmp_path / "lora", tokens=30 * BATCH * LENGTH, lora={"alpha": 64}, learning_rate=3e-3).counts
    assert learned["valid_bits_per_byte"] < Manifest.read(base.parent).counts["valid_bits_per_byte"] - 0.03
    ids = ids_of(tokens_dir)
    with torch.no_grad():
        merged = load_model(tmp_path / "lora" / "merged")(ids).logits
        laid_over = peft.PeftModel.from_pretrained(load_model(base), str(tmp_path / "lora" / "adapter"))(ids).logits
        without = load_model(base)(ids).logits
    assert (merged - laid_over).abs().max() < 1e-4
    assert (merged - without).abs().max() > 0.5


def test_llama_cpp_reads_the_adapter(train: Train, base: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    """Laid over a GGUF of the base it computes what the merged model does in torch."""
    train(tmp_path / "lora", learning_rate=1e-2)
    preset, ids = preset_of(base), ids_of(tokens_dir)
    metadata = BundleMetadata(
        name="base", codelm_version="0", context_length=LENGTH, fim_order=Order.SPM, tokenizer_sha256="", corpus_fingerprint=""
    )
    vocabulary, tensors = Tokenizer(tokenizer_dir / FILE), load_numpy(base / "model.safetensors")
    write_f16(tmp_path / "base.gguf", preset.model, vocabulary, tensors, metadata)
    adapter = gguf.GGUFReader(tmp_path / "lora" / "adapter.gguf")
    assert adapter.fields[BASE_KEY].contents() == weights_sha256(base)
    llama = llama_cpp.Llama(
        str(tmp_path / "base.gguf"), lora_path=str(tmp_path / "lora" / "adapter.gguf"), n_ctx=LENGTH, n_batch=LENGTH,
        logits_all=True, n_threads=1, n_threads_batch=1, verbose=False,
    )  # fmt: skip
    llama.eval(ids[0].tolist())
    found = torch.from_numpy(np.array(llama.scores[:LENGTH])).log_softmax(-1)
    llama.close()
    with torch.no_grad():
        merged, without = (load_model(path)(ids).logits[0].log_softmax(-1) for path in (tmp_path / "lora" / "merged", base))
    assert (found - merged).abs().mean() < 0.002
    assert (without - merged).abs().mean() > 0.02


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_killed_it_resumes_bit_for_bit(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    settings: dict[str, Any] = {"lora": {"dropout": dropout}, "watch": {"checkpoint_seconds": 1e-6, "evaluations": 0}}
    train(tmp_path / "whole", merge=False, **settings)
    update = Engine.update

    def killed(engine: Engine, share: float) -> Any:
        if len(rows(tmp_path / "killed")) == 3:
            raise RuntimeError
        return update(engine, share)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Engine, "update", killed)
        train(tmp_path / "killed", merge=False, **settings)
    assert [path.name for path in found(tmp_path / "killed")] == ["checkpoint-2", "checkpoint-3"]
    train(tmp_path / "killed", merge=False, **settings)
    one, other = (
        [{key: row[key] for key in row if key not in metrics.TIMING} for row in rows(tmp_path / name)]
        for name in ("whole", "killed")
    )
    assert one == other
    paths = [found(tmp_path / name)[-1] / "adapter_model.safetensors" for name in ("whole", "killed")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_merging_can_be_asked_for_later(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    first = train(folder, merge=False)
    assert first.counts["checkpoint"] == f"checkpoint-{STEPS}"
    assert not (folder / "merged").exists()
    log = (folder / "metrics.jsonl").read_bytes()
    assert train(folder, merge=False).created == first.created
    second = train(folder)
    assert second.key == first.key
    assert second.counts["checkpoint"] == "merged"
    verify(folder / "merged")
    assert (folder / "metrics.jsonl").read_bytes() == log, "nothing was trained again"
    assert train(folder, merge=False).created == train(folder).created == second.created


def test_without_a_budget_it_reads_the_code_as_often_as_asked(
    base: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    preset = preset_of(base).with_changes({"lora": {"epochs": 0.01, "r": 1}})
    counts = lora(tmp_path / "lora", preset, tokens_dir, tokenizer_dir, base, merge=False).counts
    train_split = Manifest.read(tokens_dir).counts["train"]
    once = train_split["tokens"] + train_split["documents"]
    assert 0 <= counts["tokens"] - 0.01 * once < BATCH * LENGTH


def test_upon_an_exported_model(gguf: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    base = restore(tmp_path / "models", gguf)
    preset = preset_of(base).with_training(tokens=2 * 2 * 512)
    manifest = lora(tmp_path / "lora", preset, tokens_dir, tokenizer_dir, base)
    assert manifest.inputs["base"] == manifest.counts["models"]["base"]["sha256"] == file_sha256(gguf)
    assert load_model(tmp_path / "lora" / "merged").config.num_hidden_layers == 2
    with reading(gguf) as exported, reading(tmp_path / "lora" / "adapter.gguf") as adapter:
        assert adapter.fields[BASE_KEY].contents() == exported.fields["codelm.weights_sha256"].contents()
    assert origin.described(tmp_path / "lora" / "merged")["models"] == manifest.counts["models"]


def test_what_does_not_fit_is_refused(train: Train, base: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    train(tmp_path / "lora", lora={"r": 4})
    with pytest.raises(UserError, match=r"holds a run with other settings \(lora\.r 4 → 8\)"):
        train(tmp_path / "lora", lora={"r": 8})
    stranger = tmp_path / "stranger"
    shutil.copytree(base, stranger)
    with pytest.raises(UserError, match="no checkpoint in the folder of its training"):
        preset_of(stranger)
    other = tmp_path / "pretrain"
    shutil.copytree(base.parent, other)
    settings = json.loads((other / "settings.json").read_text(encoding="utf-8"))
    settings["inputs"]["tokenizer"] = "0" * 64
    (other / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="trained with another tokenizer"):
        lora(tmp_path / "other", preset_of(other / base.name), tokens_dir, tokenizer_dir, other / base.name)


def test_nf4_without_bitsandbytes_says_what_to_install(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'codelm\[qlora\]'"):
        train(tmp_path / "lora", lora={"quantize": "nf4"})


def test_upon_a_base_in_four_bits(train: Train, base: Path, tokens_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    wide = train(tmp_path / "wide", learning_rate=1e-2)
    narrow = train(tmp_path / "narrow", learning_rate=1e-2, lora={"quantize": "nf4"})
    ours, theirs = (np.array([row["loss"] for row in rows(tmp_path / name)]) for name in ("narrow", "wide"))
    assert 0 < np.abs(ours - theirs).max() < 0.25, "rounded to four bits the base is another one, but not by much"
    assert narrow.counts["trained_parameters"] == wide.counts["trained_parameters"]
    # what is merged is the base itself
    ids = ids_of(tokens_dir)
    with torch.no_grad():
        merged = load_model(tmp_path / "narrow" / "merged")(ids).logits
        laid_over = peft.PeftModel.from_pretrained(load_model(base), str(tmp_path / "narrow" / "adapter"))(ids).logits
    assert (merged - laid_over).abs().max() < 1e-4
