"""`--set KEY=VALUE`: typed values, and what was meant where a key is not known."""

import pytest

from codelm.config.options import dotted, parse_settings
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError


def test_values_are_yaml() -> None:
    given = [
        "pretrain.learning_rate=1e-3",
        "pretrain.tokens=2e6",
        "pretrain.engine.compile=no",
        "pretrain.betas=[0.9, 0.99]",
        "pretrain.fim={rate: 0.7}",
        "pretrain.fim.rate=0.8",
        "pretrain.engine.strategy=zero2",
        "pretrain.engine.precision=no",
    ]
    preset = load_preset("nano").with_changes(parse_settings(given, Preset))
    assert preset.pretrain.learning_rate == 1e-3
    assert preset.pretrain.tokens == 2_000_000
    assert preset.pretrain.engine.compile is False
    assert preset.pretrain.betas == (0.9, 0.99)
    assert preset.pretrain.fim.rate == 0.8, "a later one wins"
    assert preset.pretrain.engine.strategy == "zero2"
    assert preset.pretrain.engine.precision == "no"
    assert preset.model == load_preset("nano").model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("learning_rate=1", "unknown key 'learning_rate'; did you mean 'pretrain.learning_rate'?"),
        ("pretrain.learning_rat=1", "did you mean 'pretrain.learning_rate'?"),
        ("model.leyers=1", "did you mean 'model.layers'?"),
        ("leyers=1", "did you mean 'model.layers'?"),
        ("pretrain.engine.fim.rate=1", "did you mean 'pretrain.fim.rate'?"),
        ("zzzzzz=1", "keys begin with name, description, model, tokenizer, pretrain"),
        ("model.layers.more=1", "unknown key 'model.layers.more'"),
        ("=1", "unknown key ''"),
        ("pretrain.seed", "--set pretrain.seed: the value is missing"),
        ("pretrain.betas=[1", "--set pretrain.betas: '[1' is not YAML"),
    ],
)
def test_refused(given: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_settings([given], Preset)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pretrain.learning_rate=fast", "pretrain.learning_rate: input should be a valid number"),
        ("pretrain.learning_rate=", "pretrain.learning_rate: input should be a valid number"),
        ("pretrain.seed=1.5", "pretrain.seed"),
        ("pretrain=3", "pretrain: input should be a valid dictionary"),
        ("model.width=300", "width 300 is no multiple of 256"),
    ],
)
def test_values_that_do_not_fit(given: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_preset("nano").with_changes(parse_settings([given], Preset))
    assert message in str(raised.value)


def test_tokens_and_minutes_replace_each_other() -> None:
    preset = load_preset("nano").with_training(tokens=1_000)
    preset = preset.with_changes({"pretrain": {"minutes": 2}})
    assert (preset.pretrain.tokens, preset.pretrain.minutes) == (None, 2)


def test_keys_of_a_group_that_may_be_missing_are_known() -> None:
    assert "model.rope_scaling.factor" in set(dotted(Preset))
