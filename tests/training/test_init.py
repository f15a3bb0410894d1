"""Training that begins with the weights of a checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from codelm import checkpoints
from codelm.config.model import ModelConfig, RopeScaling
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.export.restore import restore
from codelm.models import load_model, weights_sha256
from codelm.stage import Manifest, file_sha256
from training import checkpoint, metrics, origin
from training.pretrain import pretrain

Extend = Callable[..., Manifest]


def with_model(preset: Preset, **changes: Any) -> Preset:
    model = ModelConfig.model_validate(preset.model.model_dump() | changes)
    return preset.model_copy(update={"model": model})


@pytest.fixture
def extend(minute_preset: Path, uninterrupted: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> Extend:
    """Goes on from the checkpoint of a finished run, in this process, with another model and a few steps."""

    def extend(init: Path = uninterrupted, steps: int = 2, restart: bool = False, **changes: Any) -> Manifest:
        preset = with_model(load_preset(str(minute_preset)), **changes)
        length = preset.model.context_length
        preset = preset.with_training(
            tokens=steps * 2 * length, batch_size=2, learning_rate=1e-4, watch={"keep_checkpoints": 9}
        )
        return pretrain(tmp_path / "extended", preset, tokens_dir, tokenizer_dir, init=init, restart=restart)

    return extend


def test_it_begins_with_the_weights_and_a_fresh_optimiser(extend: Extend, uninterrupted: Path, tmp_path: Path) -> None:
    first = next(row for row in metrics.read(uninterrupted) if "loss" in row)
    last = [row for row in metrics.read(uninterrupted) if "loss" in row][-1]
    manifest = extend()
    began = next(row for row in metrics.read(tmp_path / "extended") if "loss" in row)
    assert abs(began["loss"] - last["loss"]) < abs(began["loss"] - first["loss"]) / 2
    assert began["step"] == 1
    newest = checkpoint.found(uninterrupted)[-1]
    assert manifest.inputs["init"] == weights_sha256(newest)
    moments = torch.load(tmp_path / "extended" / "checkpoint-2" / checkpoint.OPTIMIZER, weights_only=True)
    assert {float(entry["step"]) for entry in moments.values()} == {2.0}
    # without a preset it has that of the checkpoint's training, but for the budget
    theirs = load_preset(str(uninterrupted / "preset.yaml"))
    found = origin.preset_of(newest)
    assert found
    assert (found.model, found.pretrain.tokens) == (theirs.model, None)
    assert found.with_training(tokens=theirs.pretrain.tokens) == theirs
    # the checkpoint itself and the folder that holds it are the same
    assert checkpoints.given(newest, "--init") == newest
    assert extend(init=newest).key == manifest.key


def test_with_a_rate_of_almost_nothing_the_weights_stay(extend: Extend, uninterrupted: Path, tmp_path: Path) -> None:
    extend(steps=1)
    before, after = (
        load_file(checkpoint.found(folder)[-1] / "model.safetensors") for folder in (uninterrupted, tmp_path / "extended")
    )
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 5e-4


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
def test_a_context_is_extended(extend: Extend, tmp_path: Path, method: str) -> None:
    scaling = {"method": method, "factor": 4, "original_context": 64}
    manifest = extend(steps=4, context_length=256, rope_scaling=scaling)
    rows = [row for row in metrics.read(tmp_path / "extended") if "loss" in row]
    assert [row["tokens"] for row in rows] == [512, 1024, 1536, 2048]
    config = load_model(tmp_path / "extended" / manifest.counts["checkpoint"]).config
    assert config.max_position_embeddings == 256
    assert config.rope_parameters["rope_type"] == ("default" if method == "ntk" else method)
    assert config.rope_parameters["rope_theta"] == pytest.approx(10_000 * (4 ** (64 / 62) if method == "ntk" else 1))
    preset = load_preset(str(tmp_path / "extended" / "preset.yaml"))
    assert preset.model.rope_scaling == RopeScaling.model_validate(scaling)


def test_other_initial_weights_are_another_run(extend: Extend, uninterrupted: Path, tmp_path: Path) -> None:
    extend()
    other = tmp_path / "other"
    shutil.copytree(checkpoint.found(uninterrupted)[-1], other / "checkpoint-40")
    (other / "checkpoint-40" / checkpoint.STATE).unlink()
    path = other / "checkpoint-40" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"other settings \(inputs\.init\)"):
        extend(init=other / "checkpoint-40")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": 2}, "layers 1 ≠ 2"),
        ({"width": 512, "heads": 8}, "width 256 ≠ 512, heads 4 ≠ 8"),
        ({"kv_heads": 4}, "kv_heads 2 ≠ 4"),
        ({"norm_eps": 1e-5}, "norm_eps 1e-06 ≠ 1e-05"),
        ({"architecture": "qwen3"}, r"llama ≠ qwen3, model\.layers\.0\.self_attn\.k_norm\.weight"),
    ],
)
def test_other_shapes_are_refused_before_anything_is_thrown_away(
    extend: Extend, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    stray = tmp_path / "extended" / "stray"
    stray.parent.mkdir()
    stray.touch()
    with pytest.raises(UserError, match=rf"another shape than this model \({reason}"):
        extend(restart=True, **change)
    assert stray.exists()


def test_checkpoints_that_cannot_be_used(extend: Extend, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint; give --init"):
        extend(init=tmp_path)
    extend()
    with pytest.raises(UserError, match="--restart would throw away"):
        extend(init=tmp_path / "extended", restart=True)
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder)
    newest = checkpoint.found(folder)[-1]
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    settings["inputs"]["tokenizer"] = "0" * 64
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="trained with another tokenizer"):
        extend(init=newest)
    (newest / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"is damaged \(config\.json\)"):
        extend(init=newest)
    (newest / checkpoint.STATE).unlink()
    (folder / "settings.json").unlink()
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        extend(init=newest)


def test_it_begins_with_an_exported_model(
    gguf: Path, trained: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """At its first evaluation it is what was exported, but for what the format took; the record names the file."""
    init = restore(tmp_path / "models", gguf)
    preset = origin.preset_of(init)
    assert preset
    assert preset.pretrain.tokens is None, "how long the training of that model was is its own affair"
    length = preset.model.context_length

    def train(name: str, steps: int, start: Path | None = None, **settings: Any) -> Manifest:
        chosen = preset.with_training(tokens=steps * 2 * length, watch={"log_every": 1}, **settings)
        return pretrain(tmp_path / name, chosen, tokens_dir, tokenizer_dir, init=None if start else init, start=start)

    still = train("still", 1, learning_rate=1e-9)
    exported = Manifest.read(trained).counts["valid_bits_per_byte"]
    assert still.counts["valid_bits_per_byte"] == pytest.approx(exported, abs=0.005)

    manifest = train("warm", 8, warmup_share=0.5)
    rates = [row["learning_rate"] for row in metrics.read(tmp_path / "warm") if "loss" in row]
    assert rates[:4] == pytest.approx([preset.pretrain.learning_rate * share for share in (0.25, 0.5, 0.75, 1)])
    told = {
        "name": gguf.name,
        "sha256": file_sha256(gguf),
        "trained_tokens": Manifest.read(trained).counts["tokens"],
        "corpus_fingerprint": Manifest.read(gguf.parent).config["metadata"]["corpus_fingerprint"],
        "weights_sha256": weights_sha256(trained / Manifest.read(trained).counts["checkpoint"]),
    }
    assert manifest.counts["models"] == {"init": told}
    assert manifest.inputs["init"] == told["sha256"]
    # and what goes on from there knows it too
    start = checkpoint.found(tmp_path / "warm")[-1]
    branch = train("branch", 10, start, warmup_share=0.5)
    assert branch.counts["models"]["from"]["models"] == {"init": told}


def test_another_shape_than_the_exported_one_is_refused(
    gguf: Path, tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    init = restore(tmp_path / "models", gguf)
    with pytest.raises(UserError, match=r"tiny-q8_0-\w{8} has another shape than this model \(layers 2 ≠ 3\)"):
        pretrain(tmp_path / "x", with_model(tiny_preset, layers=3), tokens_dir, tokenizer_dir, init=init)
    assert not (tmp_path / "x").exists()
