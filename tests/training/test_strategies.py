"""However ranks share the work, it is the same training, and goes on from any checkpoint. Processes and gloo are real."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from codelm.run_folder import found
from training import checkpoint
from training.optimizers import AVERAGE

Start = Callable[..., Any]
Rows = Callable[[Path], list[dict[str, Any]]]
STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
STEPS, HALF = 50, 25
TOKENS_PER_STEP = 4 * 64


def settings(strategy: str = "auto", steps: int = STEPS, **others: Any) -> dict[str, Any]:
    """Of a training in float32, at a rate at which rounding does not grow into another curve within 50 steps."""
    engine = {"strategy": strategy, "precision": "no", "micro_batch_size": 2} | others.pop("engine", {})
    watch = {"log_every": 1, "evaluations": 0, "checkpoint_steps": HALF, "keep_checkpoints": 9}
    return {"tokens": steps * TOKENS_PER_STEP, "learning_rate": 1e-3, "ema": 0.9, "engine": engine, "watch": watch} | others


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


def averaged(folder: Path) -> dict[str, torch.Tensor]:
    """The running mean of the weights at the end."""
    return load_file(found(folder)[-1] / AVERAGE / "model.safetensors")


def gradients(folder: Path) -> dict[str, torch.Tensor]:
    """The whole gradient of a training's one step, of which AdamW remembers a tenth."""
    path = found(folder)[-1]
    moments = torch.load(path / checkpoint.OPTIMIZER, weights_only=True)
    return {name: state["exp_avg"] * 10 for name, state in moments.items()}


@pytest.fixture(scope="session")
def alone(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 steps of one process."""
    folder = tmp_path_factory.mktemp("alone") / "pretrain"
    start(folder, **settings(engine={"micro_batch_size": 4})).finish()
    return folder


@pytest.fixture(scope="session")
def shared(start_all: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two, by each strategy in a folder of its own."""
    folder = tmp_path_factory.mktemp("shared")
    start_all([(folder / strategy, settings(strategy)) for strategy in STRATEGIES], ranks=2).finish()
    return folder


@pytest.mark.parametrize("strategies", [("ddp", "fsdp2"), pytest.param(("zero2", "zero3"), marks=pytest.mark.e2e)])
def test_a_step_cut_into_unequal_parts_has_one_gradient(
    start: Start, start_all: Start, tmp_path: Path, strategies: tuple[str, ...]
) -> None:
    """Two ranks, two micro-batches each, with other numbers of labels in each, against one batch."""
    step = settings(steps=1, clip=1e9)
    start(tmp_path / "alone", **step | settings(steps=1, engine={"micro_batch_size": 4})).finish()
    jobs = [(tmp_path / name, settings(name, steps=1, clip=1e9, engine={"micro_batch_size": 1})) for name in strategies]
    start_all(jobs, ranks=2).finish()
    expected = gradients(tmp_path / "alone")
    for name in strategies:
        ours = gradients(tmp_path / name)
        assert ours.keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(ours[parameter], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.e2e
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_curve_is_that_of_one_process(shared: Path, alone: Path, rows: Rows, strategy: str) -> None:
    ours, theirs = losses(rows(shared / strategy)), losses(rows(alone))
    assert len(ours) == STEPS
    assert theirs[-1] < theirs[0] - 0.5
    assert ours == pytest.approx(theirs, abs=1e-3)
    torch.testing.assert_close(averaged(shared / strategy), averaged(alone), atol=1e-3, rtol=0)
    assert [path.name for path in found(shared / strategy)] == [f"checkpoint-{HALF}", f"checkpoint-{STEPS}"]


@pytest.mark.e2e
def test_any_checkpoint_goes_on_in_any_way(
    shared: Path, alone: Path, start: Start, start_all: Start, rows: Rows, tmp_path: Path
) -> None:
    """From one process to two by each strategy, from each strategy to one process, and from each to the next."""

    def half_of(source: Path, name: str) -> Path:
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / "manifest.json").unlink()
        shutil.rmtree(tmp_path / name / f"checkpoint-{STEPS}")
        return tmp_path / name

    to_two = [(half_of(alone, f"alone-{strategy}"), settings(strategy)) for strategy in STRATEGIES]
    for strategy, following in zip(STRATEGIES, (*STRATEGIES[1:], STRATEGIES[0]), strict=True):
        to_two.append((half_of(shared / strategy, f"{strategy}-{following}"), settings(following)))
    to_one = [(half_of(shared / strategy, f"{strategy}-alone"), settings()) for strategy in STRATEGIES]
    for said, count in ((start_all(to_two, ranks=2).finish(), 8), (start_all(to_one).finish(), 4)):
        assert said.count(f"resuming at step {HALF} of {STEPS}") >= count
    for folder, _ in to_two + to_one:
        assert losses(rows(folder)) == pytest.approx(losses(rows(alone)), abs=1e-3), folder.name


@pytest.mark.e2e
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_rank_ends_all_and_the_run_resumes(
    start: Start, shared: Path, rows: Rows, tmp_path: Path, strategy: str
) -> None:
    folder = tmp_path / "pretrain"
    restless = settings(strategy)
    restless["watch"] |= {"checkpoint_seconds": 1e-6}
    launcher = start(folder, ranks=2, **restless)
    launcher.wait_for_step(folder, 7)
    workers = [child for child in psutil.Process(launcher.pid).children() if str(folder) in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    _, err = launcher.communicate()
    assert launcher.returncode == 1, err
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert 7 <= len(losses(rows(folder))) < STEPS
    assert "resuming at step" in start(folder, ranks=2, **settings(strategy)).finish()
    assert losses(rows(folder)) == losses(rows(shared / strategy))
    weights = [found(path)[-1] / "model.safetensors" for path in (folder, shared / strategy)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.e2e
def test_ranks_share_sequences(start_all: Start, rows: Rows, tmp_path: Path) -> None:
    """Each of two ranks has half of the tokens, and in attention half of the heads; with documents apart too."""
    plain, apart = ({"engine": {"micro_batch_size": 4}, "data": {"document_mask": mask}} for mask in (False, True))
    split = {"micro_batch_size": 4, "sequence_parallel": 2}
    alone = [(tmp_path / "plain", settings(steps=8, **plain)), (tmp_path / "apart", settings(steps=8, **apart))]
    pairs = [
        ("plain", "ddp", split),
        ("plain", "zero2", split),
        ("apart", "fsdp2", split | {"attention": "sdpa"}),
        ("apart", "zero3", split | {"gradient_checkpointing": True}),
    ]
    evaluated = {"log_every": 1, "evaluations": 4, "evaluation_tokens": 64, "evaluation_places": 0}  # which must leave no trace
    jobs = [
        (
            tmp_path / f"{name}-{strategy}",
            settings(strategy, 8, engine=engine, data={"document_mask": name == "apart"}, watch=evaluated),
        )
        for name, strategy, engine in pairs
    ]
    start_all(alone).finish()
    start_all(jobs, ranks=2).finish()
    expected = {folder.name: losses(rows(folder)) for folder, _ in alone}
    assert expected["plain"] != expected["apart"]
    for name, strategy, _ in pairs:
        assert losses(rows(tmp_path / f"{name}-{strategy}")) == pytest.approx(expected[name], abs=1e-4), strategy


@pytest.mark.e2e
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_whatever_computes_it_the_curve_is_the_same(start_all: Start, rows: Rows, tmp_path: Path) -> None:
    """Compiled, with activations computed twice, with bfloat16, with Muon."""
    ways: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "compiled": ({"engine": {"compile": True}}, ("ddp", "fsdp2", "zero2")),
        "checkpointed": ({"engine": {"gradient_checkpointing": True}}, ("fsdp2", "zero3")),
        "muon": ({"optimizer": "muon"}, ("ddp", "fsdp2")),
        "bf16": ({"engine": {"precision": "bf16"}}, STRATEGIES),
    }
    start_all([(tmp_path / way, settings(steps=6, **others)) for way, (others, _) in ways.items()]).finish()
    jobs = [
        (tmp_path / f"{way}-{strategy}", settings(strategy, 6, **others))
        for way, (others, strategies) in ways.items()
        for strategy in strategies
    ]
    start_all(jobs, ranks=2).finish()
    assert losses(rows(tmp_path / "checkpointed")) == pytest.approx(losses(rows(tmp_path / "compiled")), abs=1e-4)
    for folder, _ in jobs:
        way = folder.name.split("-")[0]
        difference = 1e-2 if way == "bf16" else 1e-3
        assert losses(rows(folder)) == pytest.approx(losses(rows(tmp_path / way)), abs=difference), folder.name
