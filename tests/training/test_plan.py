"""The dry run: what it foretells adds up, and what cannot work is refused with the fix."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codelm.config.options import parse_settings
from codelm.config.preset import Preset
from codelm.config.stages import Stage, StagesConfig, load_stages, stage_of
from codelm.errors import UserError
from codelm.models import flops_per_token, parameter_count
from training.plan import devices
from training.plan.page import page
from training.plan.plan import Plan, StagePlan, as_json, make_plan, present_in


def planned(*settings: str, ids: str = "0", config: StagesConfig | None = None, **options: Any) -> StagePlan:
    """The plan of one stage with some settings."""
    changed = (config or load_stages("progressive")).with_changes(parse_settings(settings, Preset, Stage), ids)
    return make_plan("", changed.chosen(ids), measured=False, **options).stages[0]


@pytest.fixture(scope="module")
def whole() -> Plan:
    """The plan of all stages."""
    config = load_stages("progressive")
    return make_plan(config.description, config.stages)


def test_every_stage_fits_its_hardware_and_its_hours(whole: Plan) -> None:
    for stage in whole.stages:
        assert stage.warnings == []
        (chosen,) = [row for row in stage.memory if row.chosen]
        assert chosen.fits
        assert chosen.total == stage.memory_estimated == sum(chosen.parts.values())
        assert {(row.strategy, row.checkpointing) for row in stage.memory} == {
            (strategy, checkpointing) for strategy in ("ddp", "zero2", "zero3", "fsdp2") for checkpointing in (False, True)
        }


def test_hours_energy_and_cost_follow_from_the_table(whole: Plan) -> None:
    stage, device = whole.stages[2], devices.device("a100-40")
    assert stage.mfu and stage.tokens and stage.tokens_per_second and stage.hours
    assert stage.tokens_per_second == pytest.approx(stage.mfu * 4 * device.tflops * 1e12 / stage.flops_per_token)
    assert stage.hours == pytest.approx(20e9 / stage.tokens_per_second / 3600)
    assert stage.kwh == pytest.approx(stage.hours * 4 * device.watts / 1000)
    assert stage.cost == pytest.approx(stage.hours * 4 * device.price)
    assert whole.total("hours") == pytest.approx(sum(stage.hours or 0 for stage in whole.stages))


def test_what_the_user_knows_better() -> None:
    usual = planned()
    other = planned("hardware.price_per_hour=10", "hardware.watts=100", "hardware.mfu=0.5")
    assert other.mfu == pytest.approx(0.5)
    assert other.hours and usual.hours
    assert other.cost == pytest.approx(10 * other.hours)
    assert other.kwh == pytest.approx(0.1 * other.hours)
    assert planned("pretrain.engine.gradient_checkpointing=true").hours == pytest.approx(usual.hours / 0.75)


def test_the_literal_shape_stands_beside_and_can_be_planned() -> None:
    beside = planned()
    assert (beside.report_shape, beside.report_parameters) == ("12 × 512", 67_121_664)
    for id_, layers, width in (("0", 12, 512), ("1", 16, 768), ("2", 24, 1536), ("3", 32, 2048)):
        literal = planned(ids=id_, shape="report")
        assert (literal.model.layers, literal.model.width) == (layers, width)
        assert literal.parameters == literal.report_parameters == parameter_count(literal.model)
        assert literal.flops_per_token == flops_per_token(literal.model)
        assert "outside of the stage's budget" in literal.warnings[0]
        assert [row.fits for row in literal.memory if row.chosen] == [True]


@pytest.mark.parametrize(
    ("settings", "ids", "message"),
    [
        (["model.heads=7"], "0", "stage 0: model: width 256 cannot be shared out among 7 heads, but among 8"),
        (["model.width=300"], "0", "no multiple of 256, the block of the K-quants, as 256 is"),
        (["model.head_dim=32"], "0", "set model.head_dim so that 4 × head_dim is a multiple of 256"),
        (["pretrain.optimizer=muon", "pretrain.engine.strategy=zero2"], "1", "stage 1: optimizer muon needs whole matrices"),
        (["hardware.devices=3"], "1", "give a batch_size that is a multiple of 48"),
        (["hardware.device=H1000"], "0", "did you mean H100?"),
        (
            ["hardware.device=RTX-4090", "hardware.devices=1"],
            "2",
            "GB, NVIDIA GeForce RTX 4090 has 25.8 GB; set pretrain.engine.micro_batch_size to 8",
        ),
        (
            ["hardware.device=RTX-4090", "pretrain.engine.micro_batch_size=1", "model.context_length=65536"],
            "2",
            "; set pretrain.engine.gradient_checkpointing to true",
        ),
        (
            ["hardware.device=RTX-4090", "pretrain.engine.micro_batch_size=1", "model.layers=105", "hardware.devices=8"],
            "3",
            "; set pretrain.engine.strategy to zero2",
        ),
        (["hardware.device=RTX-4090", "hardware.devices=1", "model.layers=900"], "3", "; take a device with more memory"),
        (
            ["pretrain.engine.attention=blocks"],
            "1",
            "stage 1: engine.attention blocks is for CPUs; set engine.attention to auto",
        ),
        (
            ["pretrain.engine.attention=varlen", "pretrain.attention_dropout=0.1"],
            "1",
            "varlen has no dropout; set pretrain.attention_dropout to 0",
        ),
        (
            ["pretrain.engine.strategy=zero2", "pretrain.engine.deepspeed_config=none.json"],
            "1",
            "stage 1: engine.deepspeed_config none.json: No such file or directory",
        ),
    ],
)
def test_refused_with_the_fix(settings: list[str], ids: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        planned(*settings, ids=ids)
    assert message in str(raised.value)


def test_a_kernel_that_only_the_other_machine_has_is_planned_with() -> None:
    planned("pretrain.engine.attention=flash_attention_2", ids="1")


@pytest.mark.parametrize(
    ("name", "found"),
    [("NVIDIA H200", "NVIDIA H200 SXM 141 GB"), ("NVIDIA H200 NVL", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None)],
)
def test_only_a_gpu_of_the_table_is_taken_for_it(name: str, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(name=name, total_memory=7))
    here = devices.this_gpu()
    assert (here and here.title) == found
    assert here is None or here.memory == 7


def test_the_change_that_is_named_is_one_that_helps() -> None:
    planned("hardware.device=RTX-4090", "hardware.devices=1", "pretrain.engine.micro_batch_size=8", ids="2")


def test_the_data_that_are_there(run: Path, tokens_dir: Path, tiny_preset: Preset, tmp_path: Path) -> None:
    config = stage_of(str(Path(__file__).parent.parent / "fixtures" / "tiny.yaml"), "A6000")
    present = present_in(run).tokens
    assert present
    once = planned(config=config, run=run)
    assert once.epochs == pytest.approx((tiny_preset.pretrain.tokens or 0) / present)
    often = planned(f"pretrain.tokens={5 * present}", config=config, run=run)
    assert often.warnings[0].startswith("5.0 passes over the same data")
    with pytest.raises(
        UserError, match=rf"20\.0 passes .*16 are allowed; .* at most {16 * present}, or data\.max_epochs to 20"
    ):
        planned(f"pretrain.tokens={20 * present}", config=config, run=run)
    planned(f"pretrain.tokens={20 * present}", "data.max_epochs=20", config=config, run=run)
    with pytest.raises(UserError, match=r"stage 0: a factor of data.mixture fits no document \(language: cobol\)"):
        planned('pretrain.data.mixture.factors=[{"factor": 2, "language": "cobol"}]', config=config, run=run)
    with pytest.raises(UserError, match="the run's tokenizer has 1,024 entries, the model wants 32,768"):
        planned(run=run)
    with pytest.raises(UserError, match="no such run folder"):
        planned(run=tmp_path / "none")
    assert planned(run=tmp_path).tokens_present is None


def test_without_tokens_the_corpus_tells_about_how_much_there_is(corpus: Path, tokens_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(corpus)
    about, exact = present_in(tmp_path), present_in(tokens_dir.parent)
    assert about.encoded is None
    assert about.tokens == pytest.approx(exact.tokens, rel=0.5)


def test_this_machine_unmeasured() -> None:
    stage = planned(config=stage_of("nano"))
    assert stage.device == "here"
    if stage.mfu is None:
        assert (stage.tokens_per_second, stage.hours, stage.speed_source) == (None, None, "not measured")


def test_too_few_tokens_are_told() -> None:
    assert "5.6 tokens a parameter" in planned("pretrain.tokens=100_000_000").warnings[0]
    assert "more than the 1 that the stage is to take" in planned("hardware.max_hours=1").warnings[0]


def test_json_is_the_plan(whole: Plan) -> None:
    assert Plan.model_validate(json.loads(as_json(whole))) == whole


def test_the_page_needs_nothing_else(whole: Plan, html_page: Any) -> None:
    read = html_page(page(whole))
    assert not read.tags & {"script", "link", "img", "iframe", "object"}
    assert all(name not in ("href", "src") or str(value).startswith("#") for name, value in read.attributes)
    text = " ".join(read.texts)
    for stage in whole.stages:
        assert f"{stage.parameters:,}" in text
        assert all(line in text for line in (*stage.review, *stage.stop))


def test_the_table_of_devices() -> None:
    assert set(devices.table().devices) == {"RTX-4090", "A6000", "A100-40", "A100-80", "H100", "H200"}
    sizes = [one.parameters for one in devices.table().mfu]
    assert sizes == sorted(sizes)
    assert devices.table().utilisation(10**12) is devices.table().mfu[-1]
