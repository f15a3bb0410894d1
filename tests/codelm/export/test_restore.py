"""A GGUF is read back into the checkpoint that it was written from."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from transformers import AutoConfig

from codelm.config.model import ModelConfig
from codelm.config.preset import load_preset
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.export.gguf import write_f16
from codelm.export.restore import restore
from codelm.export.rewrite import set_text
from codelm.fim import Order
from codelm.models import build_model, load_model, served
from codelm.stage import Manifest, file_sha256
from codelm.tokenizer import FILE, Tokenizer, find, fingerprint_of

Write = Callable[..., Path]


@pytest.fixture
def write(tiny_preset: Any, tokenizer_dir: Path, tmp_path: Path) -> Write:
    """A GGUF of fresh weights; changes are those of the tiny preset's model."""

    def write(without: str = "", **changes: Any) -> Path:
        model = ModelConfig.model_validate(tiny_preset.model.model_dump() | {"layers": 1} | changes)
        tokenizer = Tokenizer(tokenizer_dir / FILE)
        weights = build_model(model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad).state_dict()
        tensors = {name: tensor.numpy() for name, tensor in weights.items() if name != without}
        metadata = BundleMetadata(
            name="fresh", codelm_version="0", context_length=model.context_length, fim_order=Order.SPM,
            tokenizer_sha256=tokenizer.sha256, corpus_fingerprint="f" * 64,
        )  # fmt: skip
        write_f16(tmp_path / "fresh.gguf", served(model), tokenizer, tensors, metadata)
        return tmp_path / "fresh.gguf"

    return write


@pytest.mark.parametrize(("format_", "largest"), [("f16", 1e-3), ("q8_0", 0.01), ("q4_k_m", 0.1)])
def test_the_weights_are_those_that_the_format_has_left(exported: Any, tmp_path: Path, format_: str, largest: float) -> None:
    found = load_file(restore(tmp_path, exported.bundle / f"{exported.preset.name}-{format_}.gguf") / "model.safetensors")
    expected = load_file(exported.checkpoint / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        if weights.ndim == 1:
            assert np.array_equal(found[name], weights), name
        elif format_ == "f16":
            assert np.array_equal(found[name], weights.astype(np.float16).astype(np.float32)), name
        assert np.linalg.norm(found[name] - weights) < largest * np.linalg.norm(weights), name


def test_all_else_is_the_very_same(exported: Any, tokenizer_dir: Path, tmp_path: Path) -> None:
    path = exported.bundle / f"{exported.preset.name}-q8_0.gguf"
    folder = restore(tmp_path, path)
    assert (folder / FILE).read_bytes() == (tokenizer_dir / FILE).read_bytes()
    assert find(folder) == folder / FILE
    assert fingerprint_of(folder / FILE) == Manifest.read(tokenizer_dir).fingerprint
    ours, theirs = (AutoConfig.from_pretrained(at).to_dict() for at in (folder, exported.checkpoint))
    assert {name for name in theirs if ours.get(name) != theirs[name]} <= {"architectures", "dtype", "_name_or_path"}
    assert load_preset(str(folder / "preset.yaml")) == exported.preset
    manifest = Manifest.read(folder)
    assert manifest.inputs == {"gguf": file_sha256(path)}
    assert manifest.counts["name"] == path.name
    assert manifest.counts["trained_tokens"] > 0


def test_without_a_preset_beside_it_the_file_still_tells_its_shape(gguf: Path, tiny_preset: Any, tmp_path: Path) -> None:
    alone = Path(shutil.copy(gguf, tmp_path))
    preset = load_preset(str(restore(tmp_path / "models", alone) / "preset.yaml"))
    assert preset.model == tiny_preset.model
    assert (preset.name, preset.tokenizer.vocab_size) == ("tiny", tiny_preset.model.vocab_size)
    assert preset.pretrain == load_preset("nano").pretrain


def test_what_was_read_back_is_not_read_again(gguf: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(gguf, tmp_path))
    first = restore(tmp_path / "models", alone)
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert restore(tmp_path / "models", alone) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    # another preset beside it, and another file of the same name, come to stand beside it
    preset = load_preset("nano").with_training(batch_size=8)
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset.model_dump(mode="json")), encoding="utf-8")
    second = restore(tmp_path / "models", alone)
    assert load_preset(str(second / "preset.yaml")).pretrain.batch_size == 8
    set_text(alone, "codelm.gate", "{}")
    assert len({first, second, restore(tmp_path / "models", alone)}) == 3
    assert {path.name for path in (tmp_path / "models").iterdir()} >= {first.name, second.name}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 123_456.0, "norm_eps": 1e-5, "head_dim": 128},
        {"context_length": 2048, "rope_scaling": {"method": "linear", "factor": 4.0, "original_context": 512}},
        {"context_length": 1000, "rope_scaling": {"method": "yarn", "factor": 1000 / 768, "original_context": 768}},
        {"context_length": 1000, "rope_scaling": {"method": "yarn", "factor": 1.7, "original_context": 768}},
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_shapes(write: Write, tiny_preset: Any, tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    changes = {"architecture": architecture, **changes}
    folder = restore(tmp_path / "models", write(**changes))
    expected = ModelConfig.model_validate(tiny_preset.model.model_dump() | {"layers": 1} | changes)
    assert load_preset(str(folder / "preset.yaml")).model == expected
    load_model(folder)


def test_shapes_that_a_file_holds_in_another_way(write: Write, tmp_path: Path) -> None:
    """A larger base for NTK, and of a sliding window what is served of it."""
    ntk = {"method": "ntk", "factor": 4.0, "original_context": 512}
    model = load_preset(str(restore(tmp_path / "models", write(context_length=2048, rope_scaling=ntk)) / "preset.yaml")).model
    assert model.rope_scaling is None
    assert model.rope_theta == pytest.approx(10_000 * 4 ** (64 / 62), rel=1e-6)
    model = load_preset(str(restore(tmp_path / "models", write(sliding_window=128)) / "preset.yaml")).model
    assert (model.context_length, model.sliding_window) == (128, None)


def test_what_cannot_be_read_back(gguf: Path, write: Write, tmp_path: Path) -> None:
    models, copy = tmp_path / "models", tmp_path / "copy.gguf"
    with pytest.raises(UserError, match=r"nowhere\.gguf cannot be read: No such file"):
        restore(models, tmp_path / "nowhere.gguf")
    copy.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole GGUF file"):
        restore(models, copy)
    shutil.copy(gguf, copy)
    set_text(copy, "codelm.tokenizer_sha256", "0" * 64)
    with pytest.raises(UserError, match=r"do not give the tokenizer\.json that it was trained with"):
        restore(models, copy)
    set_text(copy, "codelm.name", "tiny")
    set_text(copy, "general.architecture", "gpt2")
    with pytest.raises(UserError, match=r"no model that `codelm export` wrote \(its architecture is gpt2\)"):
        restore(models, copy)
    norm = "model.layers.0.input_layernorm.weight"
    with pytest.raises(UserError, match=r"it differs from a llama of its shape in blk\.0\.attn_norm\.weight"):
        restore(models, write(without=norm))
    writer = library.GGUFWriter(str(copy), "llama")
    writer.add_tensor("output.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"no model that `codelm export` wrote \(no usable codelm metadata"):
        restore(models, copy)
    shutil.copy(gguf, copy)
    (tmp_path / "preset.yaml").write_text("name: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"preset\.yaml.*malformed YAML"):
        restore(models, copy)
    assert not models.exists()
