"""`codelm train plan`: options, formats, and errors of one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.train import app
from codelm.errors import UserError
from training.plan.plan import Plan


def plan(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_text_of_all_stages_in_a_hundred_columns() -> None:
    result = plan()
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    for said in ("17,832,192 parameters", "12 × 512: 67,121,664", "zero3", "kWh", "q4_k_m", "at least 2 rounds", "Stop when"):
        assert said in words
    assert max(len(line.rstrip()) for line in result.output.splitlines()) <= 100


def test_json() -> None:
    result = plan("--stages", "0,1", "--device", "H200", "--devices", 2, "--format", "json", "--set", "pretrain.tokens=2e9")
    found = Plan.model_validate(json.loads(result.stdout))
    assert [(stage.id, stage.device, stage.devices, stage.tokens) for stage in found.stages] == [
        ("0", "H200", 2, 2_000_158_720),
        ("1", "H200", 2, 2_000_158_720),
    ], "whole steps"


def test_a_file_is_written_whole(tmp_path: Path, html_page: Any) -> None:
    result = plan("--stages", 0, "--format", "html", "--out", tmp_path / "plan.html")
    assert result.stdout == f"{tmp_path / 'plan.html'}\n"
    assert "Stage 0: 20m" in html_page((tmp_path / "plan.html").read_text(encoding="utf-8")).texts
    plan("--stages", 0, "--out", tmp_path / "plan.txt")
    assert "stage 0: 20m" in (tmp_path / "plan.txt").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.html", "plan.txt"]


def test_a_preset_of_ones_own(run: Path, tokens_dir: Path) -> None:
    tiny = Path(__file__).parent.parent / "fixtures" / "tiny.yaml"
    result = plan("--preset", tiny, "--run", run, "--no-measure", "--format", "json")
    (stage,) = Plan.model_validate(json.loads(result.stdout)).stages
    assert (stage.preset, stage.tokens) == ("tiny", 204_800)
    assert stage.tokens_present
    assert stage.epochs == pytest.approx(204_800 / stage.tokens_present)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "2,0"], "write --stages 0,2"),
        (["--set", "pretrain.learing_rate=1"], "did you mean 'pretrain.learning_rate'?"),
        (["--set", "hardware.device"], "the value is missing"),
        (["--config", "progresive"], "use one of progressive"),
        (["--preset", "nono"], "use one of"),
        (["--measure", "--device", "H100"], "leave out --device, or --measure"),
        (["--out", "/nowhere/plan.html"], "there is no folder /nowhere"),
        (
            ["--stages", "2b", "--set", "model.layers=10"],
            "stage 2b continues stage 2, which has another shape (layers 24 → 10)",
        ),
        (["--out", "/tmp"], "--out /tmp is a folder"),
        (["--set", "model.vocab_size=2048"], "model.vocab_size 2048 ≠ tokenizer.vocab_size 32768; change one of them"),
        (["--run", "/nowhere"], "/nowhere: no such run folder"),
    ],
)
def test_errors_of_one_line(arguments: list[str], message: str) -> None:
    result = plan(*arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_formats_are_these() -> None:
    assert plan("--format", "pdf").exit_code == 2
