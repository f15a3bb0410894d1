"""The schedule and what decays."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.preset import Preset
from codelm.models import build_model
from training.optimizer import adamw, learning_rate


@given(steps=st.integers(1, 3_000))
def test_it_warms_up_then_falls_to_its_share(tiny_preset: Preset, steps: int) -> None:
    config = tiny_preset.pretrain
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    warmup = max(1, round(config.warmup_share * steps))
    assert rates[0] == pytest.approx(config.learning_rate / warmup)
    assert max(rates) == pytest.approx(rates[warmup - 1]) == pytest.approx(config.learning_rate)
    assert all(before < after for before, after in itertools.pairwise(rates[:warmup]))
    assert all(before >= after for before, after in itertools.pairwise(rates[warmup:]))
    assert min(rates[warmup - 1 :]) >= config.learning_rate * config.final_lr_share
    if steps > 100:
        assert rates[-1] == pytest.approx(config.learning_rate * config.final_lr_share, rel=0.01)


def test_the_middle_of_the_cosine(tiny_preset: Preset) -> None:
    config = tiny_preset.pretrain.model_copy(update={"warmup_share": 0.1, "final_lr_share": 0.1, "learning_rate": 1.0})
    assert learning_rate(10 + 45, 100, config) == pytest.approx(0.55)


def test_norms_do_not_decay(tiny_preset: Preset) -> None:
    model = build_model(tiny_preset.model, 0, 1)
    optimizer = adamw(model, tiny_preset.pretrain)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays.pop(id(parameter)) == (0 if "norm" in name else tiny_preset.pretrain.weight_decay), name
    assert not decays
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(tuple(group["betas"]) == tiny_preset.pretrain.betas for group in optimizer.param_groups)
