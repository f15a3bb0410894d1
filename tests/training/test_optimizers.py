"""What AdamW and Muon do with the parameters of a model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from codelm.config.preset import Preset
from codelm.models import build_model, load_model
from training.optimizers import Muon, adamw, averages, build_optimizer, keep_average, orthogonalized, without_averages


def test_norms_do_not_decay(tiny_preset: Preset) -> None:
    model = build_model(tiny_preset.model, 0, 1)
    optimizer = adamw(model, tiny_preset.pretrain)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays.pop(id(parameter)) == (0 if "norm" in name else tiny_preset.pretrain.weight_decay), name
    assert not decays
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(tuple(group["betas"]) == tiny_preset.pretrain.betas for group in optimizer.param_groups)


def test_muon_is_for_the_matrices_of_the_blocks(tiny_preset: Preset) -> None:
    model = build_model(tiny_preset.model, 0, 1)
    optimizer = build_optimizer(model, tiny_preset.with_training(optimizer="muon").pretrain)
    assert isinstance(optimizer, Muon)
    kinds = {id(p): group["kind"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert kinds.pop(id(parameter)) == ("muon" if "_proj" in name else "adamw"), name
    assert not kinds


@settings(max_examples=30)
@given(rows=st.integers(1, 24), more=st.integers(0, 40), seed=st.integers(0, 2**31))
def test_the_orthogonal_factor(rows: int, more: int, seed: int) -> None:
    matrix = torch.randn(2, rows, rows + more, generator=torch.Generator().manual_seed(seed))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    ours = orthogonalized(matrix).float()
    values = torch.linalg.svdvals(ours)
    # what is nearly singular is not brought up to 1 in five iterations
    assert values.max() < 1.3
    assert values.median() > 0.6
    cosine = torch.nn.functional.cosine_similarity(ours.flatten(1), (left @ right).flatten(1))
    assert cosine.min() > 0.9


def test_small_gradients_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16, which old GPUs are fast in, has nothing below 6e-8."""
    monkeypatch.setattr("training.optimizers.fast_dtype", lambda device: torch.float16)
    matrix = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(3))
    large, small = orthogonalized(matrix), orthogonalized(matrix * 1e-8)
    assert large.dtype == torch.float16
    assert torch.nn.functional.cosine_similarity(large.flatten().float(), small.flatten().float(), 0) > 0.95


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(16, 16), (8, 24), (24, 8), (16, 16)]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def test_a_step_is_that_of_torch_but_for_the_iteration() -> None:
    ours, theirs = matrices(), matrices()
    before = [parameter.detach().clone() for parameter in ours]
    group = {"params": ours, "kind": "muon", "peak_lr": 0.02, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizer, peer = Muon([group]), torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(3):
        optimizer.step()
        peer.step()
    for start, one, other in zip(before, ours, theirs, strict=True):
        moves = [(parameter.detach() - start).flatten() for parameter in (one, other)]
        assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.97
        assert moves[0].norm() == pytest.approx(moves[1].norm(), rel=0.25)


def test_the_rest_is_torchs_adamw(tiny_preset: Preset) -> None:
    config = tiny_preset.pretrain
    models = [build_model(tiny_preset.model, 0, 1) for _ in range(2)]
    optimizers = [
        build_optimizer(model, tiny_preset.with_training(optimizer=name).pretrain)
        for model, name in zip(models, ("muon", "adamw"), strict=True)
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate
    for _ in range(2):
        for model, optimizer in zip(models, optimizers, strict=True):
            model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
            for name, parameter in model.named_parameters():
                if "_proj" in name:  # so that both see the same gradients
                    parameter.grad = None
            optimizer.step()
            optimizer.zero_grad()
    for (name, one), (_, other) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7), name


def test_its_state_is_restored(tiny_preset: Preset) -> None:
    config = tiny_preset.with_training(optimizer="muon").pretrain
    model = build_model(tiny_preset.model, 0, 1)
    optimizer = build_optimizer(model, config)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    other = build_optimizer(model, config)
    other.load_state_dict(optimizer.state_dict())
    for parameter in model.parameters():
        assert other.state[parameter].keys() == optimizer.state[parameter].keys()
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][name], value)


def test_the_average_of_the_weights(tiny_preset: Preset) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    keep_average(optimizer, 0.5)
    values = []
    for _ in range(3):
        parameter.grad = torch.ones(3)
        optimizer.step()
        values.append(parameter.detach().clone())
    expected = (values[0] + 2 * values[1] + 4 * values[2]) / 7
    assert torch.allclose(averages({"x": optimizer.state[parameter]})["x"], expected)


def test_without_averages_the_rest_keeps_its_order() -> None:
    """Ranks gather what they remember one by one: in another order they would mix it up."""
    state = {
        name: torch.zeros(1) for name in ("step", "average", "exp_avg", "exp_avg_sq", "average_weight", "momentum", "other")
    }
    assert list(without_averages({"x": state})["x"]) == ["step", "exp_avg", "exp_avg_sq", "momentum", "other"]


def test_the_average_is_saved_beside_the_weights_and_goes_on(start: Callable[..., Any], tmp_path: Path) -> None:
    budget = {"tokens": 8 * 256, "ema": 0.9}
    watch = {"evaluations": 0, "keep_checkpoints": 9}
    for folder, saves in (("whole", 60.0), ("parts", 1e-6)):
        start(tmp_path / folder, **budget, watch=watch | {"checkpoint_seconds": saves}).finish()
    shutil.rmtree(tmp_path / "parts" / "checkpoint-8")
    (tmp_path / "parts" / "manifest.json").unlink()
    start(tmp_path / "parts", **budget, watch=watch).finish()
    files = [tmp_path / folder / "checkpoint-8" / "average" / "model.safetensors" for folder in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    averaged, last = load_model(files[0].parent), load_model(files[0].parent.parent)
    steps = [load_file(tmp_path / "parts" / f"checkpoint-{step}" / "model.safetensors") for step in range(1, 9)]
    weights = [0.9 ** (8 - step) for step in range(1, 9)]
    for name, parameter in averaged.named_parameters():
        expected = sum(weight * step[name] for weight, step in zip(weights, steps, strict=True)) / sum(weights)
        assert torch.allclose(parameter, expected, atol=1e-6), name
    assert not torch.equal(averaged.model.embed_tokens.weight, last.model.embed_tokens.weight)
