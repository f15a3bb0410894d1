"""Two tiny stages by the real command: killed at any moment, the same command goes on, and in the end nothing is left to do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LITTLE = {"tokens": 8_192, "places": 16}
STAGES = {
    "description": "Two tiny stages",
    "stages": [
        {
            "id": "0", "name": "one", "aim": "to begin", "preset": "tiny.yaml",
            "pretrain": {"tokens": 40_960}, "evaluation": LITTLE,
        },
        {
            "id": "1", "name": "two", "aim": "to go on", "after": "0", "preset": "tiny.yaml", "model": {"layers": 3},
            "pretrain": {"tokens": 81_920}, "sft": {"samples": 10}, "evaluation": LITTLE,
        },
    ],
}  # fmt: skip


@pytest.fixture
def project(run: Path, tokens_dir: Path, tmp_path: Path) -> Path:
    """A run folder with the session's data, and the stages beside it."""
    (tmp_path / "run").mkdir()
    for name in ("corpus", "tokenizer", "tokens"):
        (tmp_path / "run" / name).symlink_to(run / name)
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(STAGES), encoding="utf-8")
    tiny = Path(__file__).parent.parent / "fixtures" / "tiny.yaml"
    (tmp_path / "tiny.yaml").write_text(tiny.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def start(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command, in a process group of its own."""
    command = [sys.executable, "-P", "-m", "cli.main", "train", "stages", "--config", str(project / "stages.yaml")]
    return subprocess.Popen(
        [*command, "--run", str(project / "run"), "--execute", "--no-measure", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_after_a_checkpoint(process: "subprocess.Popen[str]", folder: Path, *, whole: bool) -> None:
    """SIGKILL, to the whole of it or to what waits for the training, as soon as this has something to go on from."""
    while not list(folder.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (training,) = psutil.Process(process.pid).children()
    (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    training.wait(120)  # by itself, if it was not killed


def test_killed_and_gone_on(project: Path) -> None:
    often = ("--set", "pretrain.watch.checkpoint_seconds=0.01", "--set", "pretrain.watch.keep_checkpoints=1")
    first, second = project / "run/stages/0-one/round-1", project / "run/stages/1-two/round-1"
    for killed, whole in ((first, True), (second, False)):
        kill_after_a_checkpoint(start(project, *often), killed / "pretrain", whole=whole)
        assert not (killed / "pretrain" / "manifest.json").exists(), "it trained to its end"
    process = start(project)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "resuming at step" in said
    assert "stage 0: round-1 is finished, skipped" in said

    one, two = (json.loads((folder / "review.json").read_text(encoding="utf-8")) for folder in (first, second))
    assert (one["tokens"], two["tokens"]) == (40_960, 81_920)
    assert one["previous_bits_per_byte"] is None
    assert two["previous_bits_per_byte"] == one["bits_per_byte"] > two["bits_per_byte"]
    floor = yaml.safe_load((second / "preset.yaml").read_text(encoding="utf-8"))["pretrain"]["watch"]["early_stop"]["floor"]
    assert floor["value"] == one["half_bits_per_byte"]
    assert [step["said"] for step in two["steps"] if step["name"] == "sft"] == [
        "skipped: fine-tuning is not part of this version"
    ]
    assert {one["name"] for one in two["comparisons"]} >= {"parameters", "tokens/s", "hours", "memory of a device"}
    assert two["advice"][-1]["what"].startswith("Train another round")

    before = {path: path.stat().st_mtime_ns for path in (project / "run" / "stages").rglob("*") if path.is_file()}
    process = start(project)
    assert "stage 1: round-1 is finished, skipped" in process.communicate()[0]
    after = {path: path.stat().st_mtime_ns for path in (project / "run" / "stages").rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} <= {project / "run" / "stages" / ".lock"}


def test_asked_to_end_with_all_that_it_started(project: Path) -> None:
    """As a service manager asks: SIGTERM to the training too, which has it twice then."""
    log = project / "run/stages/0-one/round-1/pretrain/metrics.jsonl"
    process = start(project, "--set", "pretrain.watch.log_every=1", "--set", "pretrain.tokens=409_600")
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    logged = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert logged[-1]["step"] < 400, "it trained to its end"
    assert (log.parent / f"checkpoint-{logged[-1]['step']}").is_dir()
    assert not (project / "run" / "stages" / "1-two").exists()


def test_a_gate_ends_it(project: Path) -> None:
    process = start(project, "--set", "gate.min_exact_match=1", "--set", "pretrain.tokens=2048")
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert "stage 0: the gate is not passed" in said
    assert not (project / "run" / "stages" / "1-two").exists()


def test_a_stage_goes_on_with_the_weights_of_another_and_has_a_second_round(project: Path) -> None:
    """The window of the first stage, stretched; then a round of it from a checkpoint that the user names."""
    short = {"aim": "to be short", "preset": "tiny.yaml", "evaluation": LITTLE, "gate": {"better_than_previous": False}}
    stretched = {"context_length": 1024, "rope_scaling": {"method": "yarn", "factor": 2.0, "original_context": 512}}
    stages = [
        {**short, "id": "0", "name": "one", "pretrain": {"tokens": 40_960}},
        {**short, "id": "0b", "name": "longer", "after": "0", "continues": True, "model": stretched,
         "pretrain": {"tokens": 8_192, "watch": {"log_every": 1}}},
    ]  # fmt: skip
    text = yaml.safe_dump({"description": "A window, stretched", "stages": stages})
    (project / "stages.yaml").write_text(text, encoding="utf-8")
    process = start(project)
    said = process.communicate()[0]
    assert process.returncode == 0, said

    first, longer = project / "run/stages/0-one/round-1", project / "run/stages/0b-longer"
    assert begun_with(longer / "round-1") == first / "pretrain" / "checkpoint-40"
    assert losses(longer / "round-1")[0] < losses(first)[0], "it began anew"

    named = longer / "round-1" / "pretrain" / "checkpoint-4"
    process = start(project, "--stages", "0b", "--round", "2", "--resume-from", str(named))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert begun_with(longer / "round-2") == named
    review = json.loads((longer / "round-2" / "review.json").read_text(encoding="utf-8"))
    assert (review["stage"], review["round"]) == ("0b", 2)

    process = start(project, "--stages", "0b", "--round", "1", "--set", "model.layers=3")
    said = process.communicate()[0]
    assert process.returncode == 2
    assert "stage 0b continues stage 0, which has another shape (layers 2 → 3)" in " ".join(said.split())


def begun_with(round_: Path) -> Path:
    """Where the weights of a round come from, by its record."""
    return Path(json.loads((round_ / "round.json").read_text(encoding="utf-8"))["init"])


def losses(round_: Path) -> list[float]:
    """What a round's training logged."""
    lines = (round_ / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]
