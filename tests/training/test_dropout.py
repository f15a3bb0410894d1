"""Dropout while a model trains, and only then."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codelm.config.preset import Preset, load_preset
from codelm.models import build_model
from training import checkpoint
from training.attention import blocks, registered, sdpa
from training.dropout import add_dropout
from training.pretrain import pretrain


def answer(model: Any, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(input_ids=torch.arange(64)[None], use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize(("residual", "attention"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
def test_it_drops_out_in_training_by_the_seed(
    tiny_preset: Preset, architecture: str, residual: float, attention: float
) -> None:
    shape = tiny_preset.model.model_copy(update={"architecture": architecture, "context_length": 64})
    stock, model = build_model(shape, 0, 1), build_model(shape, 0, 1)
    add_dropout(model, residual, attention)
    for built in (stock, model):
        built.set_attn_implementation(registered("blocks"))
    one, same, other = (answer(model.train(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(answer(model.eval(), 1), answer(stock.eval(), 1))
    assert model.state_dict().keys() == stock.state_dict().keys()
    assert model.config.to_dict() == stock.config.to_dict()


def test_each_layer_adds_less_and_the_rest_is_scaled(tiny_preset: Preset) -> None:
    model = build_model(tiny_preset.model, 0, 1).train()
    add_dropout(model, 0.25, 0.0)
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            plain = type(projection).forward
            projection.register_forward_hook(
                lambda module, inputs, output, plain=plain: seen.append(output / plain(module, inputs[0]))
            )
    answer(model, 1)
    assert len(seen) == 2 * tiny_preset.model.layers
    for ratios in seen:
        kept = ratios[ratios != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.75))
        assert 0.7 < len(kept) / ratios.numel() < 0.8


@pytest.mark.parametrize("function", [blocks, sdpa])
def test_attention_weights_are_dropped_and_scaled(function: Callable[..., Any]) -> None:
    query, key = torch.zeros(1, 1, 200, 200), torch.zeros(1, 1, 200, 200)  # all keys weigh the same
    value = torch.eye(200)[None, None]
    torch.manual_seed(0)
    output, _ = function(torch.nn.Module(), query, key, value, None, scaling=1.0, dropout=0.25)
    weights = output[0, :, 0] * torch.arange(1, 201)[:, None]
    seen = weights.tril()[torch.ones(200, 200).tril() == 1]
    assert torch.equal(weights, weights.tril())
    kept = seen[seen != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.75))
    assert 0.73 < len(kept) / len(seen) < 0.77


@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=pytest.mark.e2e)])
def test_resumed_it_draws_the_same(
    minute_preset: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, compile_: bool
) -> None:
    if compile_ and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    preset = load_preset(str(minute_preset)).with_training(
        tokens=6 * 4 * 64,
        dropout=0.1,
        attention_dropout=0.1,
        data={"document_mask": True},
        engine={"compile": compile_},
        watch={"checkpoint_seconds": 1e-6, "keep_checkpoints": 9},
    )
    whole, resumed = tmp_path / "whole" / "pretrain", tmp_path / "resumed" / "pretrain"
    pretrain(whole, preset, tokens_dir, tokenizer_dir)
    shutil.copytree(whole, resumed)
    (resumed / "manifest.json").unlink()
    for path in checkpoint.found(resumed)[3:]:
        shutil.rmtree(path)
    torch.manual_seed(99)
    said: list[str] = []
    pretrain(resumed, preset, tokens_dir, tokenizer_dir, say=said.append)
    assert any("resuming at step 3 of 6" in line for line in said)
    weights = [(folder / "checkpoint-6" / "model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert weights[0] == weights[1]
