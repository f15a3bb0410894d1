"""The learning rate over a run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.preset import Preset
from training.schedule import decay_steps, learning_rate_share


@given(steps=st.integers(1, 3_000))
def test_it_warms_up_then_falls_to_its_share(tiny_preset: Preset, steps: int) -> None:
    config = tiny_preset.pretrain
    rates = [learning_rate_share(step, steps, config) for step in range(steps)]
    warmup = max(1, round(config.warmup_share * steps))
    assert rates[0] == pytest.approx(1 / warmup)
    assert max(rates) == pytest.approx(rates[warmup - 1]) == pytest.approx(1)
    assert all(before < after for before, after in itertools.pairwise(rates[:warmup]))
    assert all(before >= after for before, after in itertools.pairwise(rates[warmup:]))
    assert min(rates[warmup - 1 :]) >= config.final_lr_share
    if steps > 100:
        assert rates[-1] == pytest.approx(config.final_lr_share, rel=0.01)


def test_the_middle_of_the_cosine(tiny_preset: Preset) -> None:
    config = tiny_preset.pretrain.model_copy(update={"warmup_share": 0.1, "final_lr_share": 0.1})
    assert learning_rate_share(10 + 45, 100, config) == pytest.approx(0.55)


def test_warmup_stable_decay(tiny_preset: Preset) -> None:
    config = tiny_preset.with_training(schedule="wsd", warmup_share=0.1, decay_share=0.2, final_lr_share=0.0).pretrain
    assert decay_steps(100, config) == 20
    shares = [learning_rate_share(step, 100, config) for step in range(100)]
    assert shares[9:81] == [1] * 72
    assert shares[80:] == pytest.approx([1 - i / 20 for i in range(20)])
