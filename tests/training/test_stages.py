"""Rounds of a stage: what they are begun as, what may change on the way, what is made of their results."""

import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from codelm.config.preset import Preset
from codelm.config.stages import Gate, Stage, StagesConfig
from codelm.errors import UserError
from codelm.stage import Manifest
from training import metrics
from training.plan.plan import Plan, StagePlan, make_plan
from training.stages.advice import advise
from training.stages.review import Review, Step, bits_at_half, failed_gates, page, review
from training.stages.rounds import REVIEW, Round, best, check_order, choose, rounds_of, shut_gate

TINY = str(Path(__file__).parent.parent / "fixtures" / "tiny.yaml")


def stage(**changes: Any) -> Stage:
    return Stage.model_validate({"id": "0", "name": "one", "aim": "to see", "preset": TINY} | changes)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("", [stage()], measured=False)


@pytest.fixture
def begun(tmp_path: Path, plan: Plan) -> Round:
    one = Round(stage(), 1, tmp_path)
    one.begin(stage().resolved(), None, plan, None)
    return one


@pytest.fixture(scope="module")
def finished(bundle: Path, run: Path, plan: Plan) -> Review:
    """The review of the session's training."""
    steps = [Step(name="pretrain", said="done")]
    return review(plan.stages[0], 1, run / "pretrain", run / "evaluate", steps, Gate(), None, [])


def end(one: Round, finished: Review, bits: float) -> None:
    """Makes a round one that is finished with so many bits per byte."""
    text = finished.model_copy(update={"bits_per_byte": bits, "round": one.number}).model_dump_json()
    (one.folder / REVIEW).write_text(text, encoding="utf-8")


def test_a_round_is_read_as_it_was_written(begun: Round, tmp_path: Path, plan: Plan) -> None:
    assert begun.folder == tmp_path / "stages" / "0-one" / "round-1"
    assert begun.begun
    assert not begun.finished
    assert begun.preset == stage().resolved()
    assert begun.plan == plan.stages[0]
    assert begun.init is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-3}, "pretrain.learning_rate 0.003 → 0.001"),
        ({"tokens": 1000}, "pretrain.tokens 204800 → 1000"),
        ({"watch": {"evaluation_places": 4}}, "pretrain.watch.evaluation_places"),
    ],
)
def test_other_settings_are_another_round(begun: Round, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"round-1 was begun with other settings .*{said}.*; begin another one with --round 2"):
        begun.check(stage().resolved().with_training(**changes), None)


def test_other_weights_are_another_round(begun: Round, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume-from None → .*/else"):
        begun.check(stage().resolved(), tmp_path / "else")


def test_how_it_is_computed_may_change_on_the_way(begun: Round) -> None:
    changed = stage().resolved().with_training(engine={"micro_batch_size": 1}, watch={"log_every": 3})
    begun.check(changed, None)
    begun.go_on(changed)
    assert begun.preset == changed


def test_the_floor_is_what_the_stage_before_reached(tmp_path: Path, plan: Plan) -> None:
    one = Round(stage(), 1, tmp_path)
    one.begin(stage().resolved(), None, plan, 2.5)
    floor = one.preset.pretrain.watch.early_stop.floor
    assert floor
    assert (floor.score, floor.value) == ("bits_per_byte", 2.5)
    one.check(stage().resolved(), None)  # it is nothing that the user has to say again
    one.go_on(stage().resolved())
    assert one.preset.pretrain.watch.early_stop.floor == floor

    own = stage(pretrain={"watch": {"early_stop": {"floor": {"value": 4.0}}}})
    other = Round(own, 2, tmp_path)
    other.begin(own.resolved(), None, plan, 2.5)
    said = other.preset.pretrain.watch.early_stop.floor
    assert said
    assert said.value == 4.0, "what the user asks for counts more"


def test_the_round_that_is_meant(begun: Round, finished: Review, tmp_path: Path, plan: Plan) -> None:
    assert choose(stage(), tmp_path, None).number == 1
    assert choose(stage(), tmp_path, 2).number == 2, "settings that lead nowhere are no hindrance"
    end(begun, finished, 2.0)
    assert choose(stage(), tmp_path, None).finished
    second = choose(stage(), tmp_path, 2)
    assert not second.begun
    with pytest.raises(UserError, match="--round 3: stage 0 has 1 round; run --round 2 first"):
        choose(stage(), tmp_path, 3)
    second.begin(stage().resolved(), None, plan, None)
    end(second, finished, 1.9)
    assert [one.number for one in rounds_of(stage(), tmp_path)] == [1, 2]
    found = best(stage(), tmp_path)
    assert found
    assert found.number == 2


def test_a_stage_waits_for_the_one_before(begun: Round, finished: Review, tmp_path: Path) -> None:
    config = StagesConfig(description="", stages=[stage(), stage(id="1", name="two", after="0")])
    later = config.chosen("1")
    with pytest.raises(UserError, match=r"stage 1 comes after stage 0, which has no finished round in .*; write --stages 0,1"):
        check_order(config, later, tmp_path)
    check_order(config, config.chosen("0,1"), tmp_path)
    end(begun, finished, 2.0)
    check_order(config, later, tmp_path)
    strict = StagesConfig(description="", stages=[stage(gate={"max_bits_per_byte": 1.5}), *later])
    with pytest.raises(UserError, match=r"stage 0, whose gate is not passed \(2\.000 bits per byte are more than 1\.5\)"):
        check_order(strict, later, tmp_path)


def test_a_gate_is_that_of_today_and_of_the_best_round(begun: Round, finished: Review, tmp_path: Path, plan: Plan) -> None:
    end(begun, finished, 1.9)
    worse = Round(stage(), 2, tmp_path)
    worse.begin(stage().resolved(), None, plan, None)
    end(worse, finished, 2.1)
    for most, passes in ((2.0, True), (1.8, False)):
        config = StagesConfig(description="", stages=[stage(gate={"max_bits_per_byte": most})])
        assert (not shut_gate(config, config.stages[0], tmp_path)) == passes


def test_what_a_round_hands_on_is_its_end(begun: Round, trained: Path) -> None:
    counts = Manifest.read(trained).counts
    shutil.copytree(trained, begun.pretrain)
    assert begun.checkpoint.name == counts["checkpoint"] == f"checkpoint-{counts['steps']}"


def test_a_damaged_record_is_named(begun: Round) -> None:
    (begun.folder / "round.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"round\.json is damaged; delete .*round-1 and run the stage again"):
        begun.check(stage().resolved(), None)


def test_plan_and_actual_of_a_real_run(finished: Review, run: Path, plan: Plan) -> None:
    compared = {one.name: one for one in finished.comparisons}
    for name in ("parameters", "tokens", "checkpoint"):
        assert compared[name].agrees, compared[name]
    logged = [row["tokens_per_second"] for row in metrics.read(run / "pretrain") if "loss" in row]
    assert compared["tokens/s"].actual == statistics.median(logged)
    assert compared["memory of a device"].actual
    assert finished.passed
    assert finished.bits_per_byte == Manifest.read(run / "evaluate").counts["bits_per_byte"]
    assert finished.half_bits_per_byte == metrics.last(metrics.read(run / "pretrain"), metrics.BITS_PER_BYTE), "the only one"


def test_what_a_run_was_worth_when_half_of_it_was_over() -> None:
    rows = [{"step": step, metrics.BITS_PER_BYTE: 4 - step / 100} for step in (40, 120, 200)]
    assert bits_at_half({"steps": 200, "stopped": None}, [{"step": 100, "loss": 1.0}, *rows]) == pytest.approx(2.8)
    assert bits_at_half({"steps": 240, "stopped": None}, rows) == pytest.approx(2.8)
    assert bits_at_half({"steps": 200, "stopped": {"rule": "plateau"}}, rows) is None
    assert bits_at_half({"steps": 200, "stopped": None}, rows[:1]) is None


def test_the_page(finished: Review, run: Path, html_page: Any) -> None:
    shown = html_page(page(finished, run / "pretrain"))
    assert not shown.tags & {"script", "link", "iframe", "object"}
    assert all(str(value).startswith("data:") for name, value in shown.attributes if name in ("href", "src"))
    text = " ".join(shown.texts)
    assert f"{finished.bits_per_byte:.3f}" in text
    assert all(one.what in text and one.why in text for one in finished.advice)


@pytest.mark.parametrize(
    ("gate", "previous", "said"),
    [
        (Gate(), None, []),
        (Gate(), 2.1, []),
        (Gate(), 2.0, ["2.000 bits per byte are no better than the 2.000 of the stage before"]),
        (Gate(better_than_previous=False), 1.0, []),
        (Gate(max_bits_per_byte=1.9), None, ["2.000 bits per byte are more than 1.9"]),
        (Gate(min_exact_match=0.2), None, ["10.0% exact match is less than 20.0%"]),
    ],
)
def test_gates(gate: Gate, previous: float | None, said: list[str], finished: Review) -> None:
    found = finished.model_copy(update={"bits_per_byte": 2.0, "exact_match": 0.1})
    assert failed_gates(gate, found, previous) == said


def advised(plan: StagePlan, number: int = 1, loss: list[float] | None = None, **changes: Any) -> list[tuple[str, str | None]]:
    """What and how, after a round that went well but for the changes."""
    counts = {
        "stopped": None, "epochs": 0.5, "tokens": 1000, "time_shares": {"data": 0.01, "log": 0.0, "evaluation": 0.5},
    }  # fmt: skip
    speed = changes.pop("tokens_per_second", 100)
    rows = [{"loss": value, "bits_per_byte": 2.0, "tokens_per_second": speed} for value in loss or [3.0] * 40]
    optimizer, options = changes.pop("optimizer", "adamw"), changes.pop("options", [])
    training = {"learning_rate": 4e-3, "muon_learning_rate": 0.02, "warmup_share": 0.0, "optimizer": optimizer}
    given: dict[str, Any] = {"bits": 2.0, "best_before": None, "failed": []}
    given |= {name: changes.pop(name) for name in list(changes) if name in given}
    scores = (given["bits"], given["best_before"], given["failed"])
    found = advise(plan, number, counts | changes, rows, {"pretrain": training}, *scores, options)
    assert all(one.why for one in found)
    return [(one.what, one.command) for one in found]


def command(number: int, setting: str = "") -> str:
    return f"codelm train stages --execute --stages 0 --round {number}{setting and f' --set {setting}'}"


def test_what_to_do_next(plan: Plan) -> None:
    one = plan.stages[0].model_copy(update={"tokens_per_second": 100.0})
    half, double = "pretrain.learning_rate=0.002", "pretrain.learning_rate=0.008"
    again = ("Train another round, with one of these changes", None)

    assert advised(one) == [("Train another round, with twice the learning rate", command(2, double))]
    assert advised(one, stopped={"rule": "divergence", "why": "it rose"}) == [
        ("Halve the learning rate", command(2, half)),
        again,
    ]
    assert advised(one, stopped={"rule": "plateau", "why": "flat"})[0] == (
        "Go on with more or other data rather than longer", None,
    )  # fmt: skip
    assert advised(one, stopped={"rule": "floor", "why": "behind"})[0][1] == command(2, half)
    assert advised(one, loss=[3.0] * 15 + [4.0] * 5 + [3.0] * 20) == [("Halve the learning rate", command(2, half)), again]
    noisy = [3.0, 3.0, 4.0, 4.0] * 10
    assert advised(one, loss=noisy)[0][0] == "Train another round, with twice the learning rate", "batches differ"
    assert advised(one, optimizer="muon")[0][1] == command(2, f"{double} --set pretrain.muon_learning_rate=0.04")
    falling = [4 - step / 20 for step in range(40)]
    assert advised(one, loss=falling)[0] == ("Train on more tokens", command(2, "pretrain.tokens=2000"))
    options = ["--run runs/mine", "--set pretrain.learning_rate=0.004", "--set pretrain.minutes=5"]
    assert advised(one, options=options)[0][1] == f"{command(2)} --run runs/mine --set {double} --set pretrain.minutes=5"
    falls = advised(one, options=options, loss=falling)[0][1]
    assert falls == f"{command(2)} {options[0]} {options[1]} --set pretrain.tokens=2000", "tokens in place of minutes"
    assert advised(one, loss=falling, epochs=3)[0] == ("Train on more tokens, of more code", None)
    assert advised(one, epochs=5)[0] == ("Add sources to the corpus", None)
    assert advised(one, epochs=2, bits=2.5)[0] == (
        "Deduplicate more, add sources, or set dropout", command(2, "pretrain.dropout=0.1"),
    )  # fmt: skip
    assert advised(one, tokens_per_second=50)[0] == ("Look at what else this machine does", None)
    assert advised(one, tokens_per_second=50, time_shares={"data": 0.4, "log": 0.0})[0][0] == "Look at what the data takes"


def test_when_the_rounds_are_over(plan: Plan) -> None:
    one = plan.stages[0]
    assert advised(one, 2, best_before=2.0) == [("Go on to the next stage", None)]
    assert advised(one, 2, best_before=2.5) == [("Train another round, with one more change", None)]
    assert advised(one, 2, best_before=1.9, failed=["too bad"]) == [("Train another round, or go back to the data", None)]


def test_a_preset_of_the_same_name_is_used(tiny_preset: Preset) -> None:
    assert stage().resolved() == tiny_preset
