"""The settings of the stages: they load, hold together, and what is wrong with them is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from codelm.config.corpus import CorpusConfig
from codelm.config.load import checked
from codelm.config.options import parse_settings
from codelm.config.preset import Preset, load_named, names
from codelm.config.stages import Stage, StagesConfig, load_stages, stage_of
from codelm.errors import UserError
from codelm.models import parameter_count

STAGE = {"id": "0", "name": "a", "aim": "to see", "preset": "nano"}


def stages(*changes: dict[str, Any]) -> StagesConfig:
    return checked({"description": "some", "stages": [STAGE | change for change in changes]}, StagesConfig)


def test_the_progressive_stages_meet_their_budgets_and_keep_the_planned_depth() -> None:
    for stage in load_stages("progressive").stages:
        model = stage.resolved().model
        assert stage.parameters
        assert stage.parameters[0] <= parameter_count(model) <= stage.parameters[1]
        if stage.report:
            assert stage.resolved("report").model.layers == stage.report.layers == model.layers
            assert parameter_count(stage.resolved("report").model) > stage.parameters[1]


def test_the_continuation_has_the_weights_of_what_it_continues() -> None:
    config = load_stages("progressive")
    one, other = config.stage("2").resolved().model, config.stage("2b").resolved().model
    assert parameter_count(one) == parameter_count(other)
    assert other.context_length == 2 * one.context_length


@pytest.mark.parametrize("name", names("corpora"))
def test_corpora_load(name: str) -> None:
    assert load_named("corpora", name, CorpusConfig).sources


@pytest.mark.parametrize("stage", load_stages("progressive").stages, ids=lambda stage: stage.id)
def test_every_stage_names_a_corpus_that_there_is(stage: Stage) -> None:
    assert stage.data.corpus in names("corpora")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {}], "stage 0 is there twice"),
        ([{"after": "1"}, {"id": "1"}], "stage 0 comes after 1, which is not before it"),
        ([{"continues": True}], "stage 0 continues, but names no stage"),
        ([{"id": "first"}], "stages.0.id: string should match pattern"),
        ([{"name": "../up"}], "stages.0.name: string should match pattern"),
        ([{"hardware": {"devcies": 1}}], "unknown key 'stages.0.hardware.devcies'; did you mean 'devices'?"),
        ([], "at least 1 item"),
    ],
)
def test_refused(changes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as raised:
        stages(*changes)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("2,0", "run in order, each once; write --stages 0,2"),
        ("0,0", "write --stages 0"),
        ("0,7", "there is no stage '7'; choose from 0,1,2,2b,3"),
        ("", "there is no stage ''"),
    ],
)
def test_stages_that_cannot_be_chosen(asked: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_stages("progressive").chosen(asked)
    assert message in str(raised.value)


def test_changes_reach_the_stages_that_are_named() -> None:
    given = ["pretrain.learning_rate=1e-3", "hardware.devices=2", "pretrain.tokens=1e9"]
    config = load_stages("progressive").with_changes(parse_settings(given, Preset, Stage), "0,1")
    assert [stage.hardware.devices for stage in config.stages] == [2, 2, 4, 4, 8]
    assert config.stage("0").resolved().pretrain.learning_rate == 1e-3
    assert config.stage("1").resolved().pretrain.tokens == 1_000_000_000
    assert config.stage("2").resolved() == load_stages("progressive").stage("2").resolved()


def test_a_change_that_does_not_fit_names_the_stage() -> None:
    with pytest.raises(UserError, match=r"stage 0: unknown key 'pretrain.tokns'; did you mean 'tokens'\?"):
        stages({"pretrain": {"tokns": 1}}).stages[0].resolved()
    with pytest.raises(UserError, match="stage 0: it has no other shape"):
        stages({}).stages[0].resolved("report")


def test_a_preset_lies_beside_the_file_of_the_stages(tmp_path: Path, tiny_preset: Preset) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_preset.model_dump(mode="json")), encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"description": "mine", "stages": [STAGE | {"preset": "tiny.yaml"}]}), encoding="utf-8")
    assert load_stages(str(file)).stages[0].resolved() == tiny_preset


def test_a_preset_alone_is_a_plan_of_one_stage() -> None:
    assert stage_of("nano").stages[0].folder == "0-nano"
