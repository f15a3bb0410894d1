"""Shapes, counts and checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from codelm.config.model import ModelConfig
from codelm.config.preset import Preset, load_preset, names
from codelm.errors import UserError
from codelm.models import build_model, flops_per_token, load_model, parameter_count, transformers_config, weights_sha256

PARAMETERS = yaml.safe_load((Path(__file__).parent / "parameters.yaml").read_text(encoding="utf-8"))


def with_architecture(model: ModelConfig, architecture: str) -> ModelConfig:
    return ModelConfig.model_validate(model.model_dump() | {"architecture": architecture})


def test_every_preset_is_counted() -> None:
    assert sorted(names()) == sorted(PARAMETERS)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_count_is_the_stated_one_and_that_of_torch(name: str, architecture: str) -> None:
    from transformers import AutoModelForCausalLM

    model = with_architecture(load_preset(name).model, architecture)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(transformers_config(model, 0, 1))
    norms = 2 * model.head_dim * model.layers if architecture == "qwen3" else 0
    assert parameter_count(model) == PARAMETERS[name] + norms == sum(p.numel() for p in built.parameters())
    assert type(built).__name__ == {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[architecture]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_matrix_has_rows_for_k_quants(name: str) -> None:
    model = load_preset(name).model
    assert model.width % 256 == model.ffn % 256 == (model.heads * model.head_dim) % 256 == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 300}, "width 300 is no multiple of 256"),
        ({"ffn": 700}, "ffn 700 is no multiple of 256"),
        ({"heads": 6}, "width 256 cannot be shared out among 6 heads"),
        ({"kv_heads": 3}, "4 heads cannot be shared out among 3 kv_heads"),
        ({"head_dim": 63}, "head_dim 63 is odd"),
        ({"layers": 0}, "greater than 0"),
        ({"architecture": "mamba"}, "'llama' or 'qwen3'"),
        ({"dropout": 0.1}, "Extra inputs are not permitted"),
        (
            {"rope_scaling": {"method": "yarn", "factor": 2, "original_context": 128}},
            "context_length 512 is beyond rope_scaling: 128 tokens times 2; give a factor of 4",
        ),
    ],
)
def test_shapes_that_are_not_legal(tiny_preset: Preset, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate(tiny_preset.model.model_dump() | change)


def test_flops_are_six_a_matrix_parameter_and_attention(tiny_preset: Preset) -> None:
    model = tiny_preset.model
    built = build_model(model, 0, 1)
    matrices = sum(p.numel() for p in built.parameters() if p.ndim == 2)
    attention = 12 * model.layers * model.heads * model.head_dim * model.context_length
    assert flops_per_token(model) == flops_per_token(with_architecture(model, "qwen3")) == 6 * matrices + attention


@pytest.mark.parametrize(("architecture", "name"), [("llama", "MistralForCausalLM"), ("qwen3", "Qwen3ForCausalLM")])
def test_a_window_needs_no_model_of_our_own(tiny_preset: Preset, tmp_path: Path, architecture: str, name: str) -> None:
    plain = with_architecture(tiny_preset.model, architecture)
    windowed = ModelConfig.model_validate(plain.model_dump() | {"sliding_window": 8})
    built = build_model(windowed, 0, 1)
    assert type(built).__name__ == name
    assert built.state_dict().keys() == build_model(plain, 0, 1).state_dict().keys()
    built.save_pretrained(tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config.sliding_window == 8
    ids = torch.arange(64)[None]
    with torch.no_grad():
        before = loaded(input_ids=ids).logits[0, -1]
        # two layers of 8 see 15 tokens back
        ids[0, : 64 - 15] = 5
        assert torch.allclose(loaded(input_ids=ids).logits[0, -1], before, atol=1e-5)
        ids[0, 64 - 15] = 5
        assert not torch.allclose(loaded(input_ids=ids).logits[0, -1], before, atol=1e-5)


def test_a_window_saves_flops_of_attention(tiny_preset: Preset) -> None:
    model = tiny_preset.model
    windowed = ModelConfig.model_validate(model.model_dump() | {"sliding_window": 128})
    saved = 12 * model.layers * model.heads * model.head_dim * (model.context_length - 128)
    assert flops_per_token(model) - flops_per_token(windowed) == saved


def test_a_model_is_a_function_of_the_seed(tiny_preset: Preset) -> None:
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    one, same, other = (build_model(tiny_preset.model, 0, 1, seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state()), "others' random numbers stay what they were"
    tensors = [dict(model.named_parameters()) for model in (one, same, other)]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert all(parameter.dtype is torch.float32 for parameter in one.parameters())


def test_a_checkpoint_is_loaded_in_float32(checkpoint: Path, tiny_preset: Preset) -> None:
    model = load_model(checkpoint)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(tiny_preset.model)
    assert model.config.max_position_embeddings == tiny_preset.model.context_length
    assert len(weights_sha256(checkpoint)) == 64


@pytest.mark.parametrize("damage", ["no weights", "half", "no config", "config"])
def test_checkpoints_that_are_damaged(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    match damage:
        case "no weights":
            weights.unlink()
            with pytest.raises(UserError, match=r"holds no model\.safetensors"):
                weights_sha256(folder)
        case "half":
            weights.write_bytes(weights.read_bytes()[:100_000])
        case "no config":
            config.unlink()
        case "config":
            config.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=f"{folder} is not a readable checkpoint"):
        load_model(folder)
