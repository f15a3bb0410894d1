"""A short training on this machine, for real: how long a step takes, and how much memory the process needs.

It is the run itself that is measured: `pretrain` with a budget of so many seconds that it comes to one step after the
measurement that every run with a budget in minutes begins with, then an evaluation and a checkpoint. It runs in a process of
its own, so that its peak of memory is its own.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from codelm.config.corpus import CorpusConfig, Decontamination, Dedup, LicensePolicy
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import flops_per_token
from codelm.progress import Progress, silent

LONGEST_STEP = 6.0
"""Seconds; of longer steps only a part is measured, so that a few of them fit into the time."""
SMALLEST = 1e-6
"""Minutes: a budget of one step."""


class Measurement(NamedTuple):
    """What this machine does."""

    tokens_per_second: float
    """of one process"""
    memory: int | None
    """bytes at the most; None if only a part of a step was measured"""
    part: str = ""
    """what was left out, in words"""


def measure(preset: Preset, run: Path | None = None, progress: Progress = silent) -> Measurement:
    """Trains for about 20 seconds, compilation not counted, on the tokens of `run` or on some of the standard library.

    Raises UserError if the training fails.
    """
    part, said = fitting(preset, flops_per_second())
    with tempfile.TemporaryDirectory(prefix="codelm-plan-") as name:
        work = Path(name)
        if run is None or not (run / "tokens").is_dir():
            progress(0, None, note="some tokens to measure with")
            run = small_run(work / "run", preset)
        progress(0, None, note="training for 20 seconds to measure")
        found = in_a_process(work, part, run)
    speed = found["tokens_per_second"] * flops_per_token(part.model) / flops_per_token(preset.model)
    return Measurement(round(speed, 1), None if said else found["memory"], said)


def in_a_process(work: Path, preset: Preset, run: Path) -> dict[str, Any]:
    """Runs this module as a program. Raises UserError with its last words if it fails."""
    path = work / "preset.yaml"
    path.write_text(yaml.safe_dump(preset.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "training.plan.measure", str(path), str(run), str(work / "pretrain")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONSAFEPATH": "1"})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1].removeprefix("error: ")
        raise UserError(f"the measurement failed: {last}", "plan with --no-measure, or with --device NAME")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def fitting(preset: Preset, rate: float) -> tuple[Preset, str]:
    """The preset, or as much of it as makes steps short enough, and what was left out, in words.

    rate: FLOP/s. First a step gets fewer micro-batches, which changes nothing but its length; then a micro-batch gets fewer
    sequences, then the model fewer blocks.
    """
    model, config = preset.model, preset.pretrain
    allowed = LONGEST_STEP * rate / (flops_per_token(model) * model.context_length)
    micro = config.micro_batch_size
    if allowed >= config.batch_size:
        return with_minutes(preset), ""
    batch = max(1, min(int(allowed) // micro, config.batch_size // micro)) * micro
    said = ""
    if allowed < micro:
        micro = batch = max(1, int(allowed))
        said = f"{micro} of {config.micro_batch_size} sequences"
    layers = model.layers
    while layers > 1 and allowed < 1 and seconds(preset, layers, rate) > LONGEST_STEP:
        layers -= 1
    said += f", {layers} of {model.layers} blocks" if layers < model.layers else ""
    changes = {"model": {"layers": layers}, "pretrain": {"batch_size": batch, "engine": {"micro_batch_size": micro}}}
    return with_minutes(preset.with_changes(changes)), said


def seconds(preset: Preset, layers: int, rate: float) -> float:
    """How long one sequence may take with so many blocks."""
    model = preset.model.model_copy(update={"layers": layers})
    return flops_per_token(model) * model.context_length / rate


def with_minutes(preset: Preset) -> Preset:
    """The preset with a budget that is measured and then over."""
    return preset.with_training(minutes=SMALLEST)


def flops_per_second() -> float:
    """What a training may reach here: half of what matrix products do, by a fifth of a second of them."""
    import torch

    from training.engine import precision_of

    cuda = torch.cuda.is_available()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[precision_of("auto")]
    size = 4096 if cuda else 512
    matrix = torch.randn(size, size, device="cuda" if cuda else "cpu", dtype=dtype)
    matrix @ matrix
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        matrix @ matrix
        if cuda:
            torch.cuda.synchronize()
        products += 1
    return 2 * size**3 * products / (time.perf_counter() - started) / 2


def small_run(run: Path, preset: Preset) -> Path:
    """A run folder with the tokens of some packages of the standard library."""
    from codelm.corpus.build import build
    from codelm.corpus.tokens import encode
    from codelm.tokenizer import train

    library = Path(sysconfig.get_path("stdlib"))
    config = CorpusConfig(
        sources=[str(library / name) for name in ("asyncio", "email", "http", "json", "logging")],
        licenses=LicensePolicy(unknown="keep"),
        dedup=Dedup(near=False),
        decontaminate=Decontamination(benchmarks=[]),
        attribution=False,
    )
    build(run / "corpus", config)
    train(run / "tokenizer", preset.tokenizer, run / "corpus")
    encode(run / "tokens", run / "corpus", run / "tokenizer")
    return run


def main() -> None:
    """Trains, and prints what it took as JSON."""
    from codelm.config.preset import load_preset
    from training.budget import Budget
    from training.pretrain import pretrain

    preset, run, folder = load_preset(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    try:
        counts = pretrain(folder, preset, run / "tokens", run / "tokenizer").counts
    except UserError as error:
        sys.exit(f"error: {error}")
    budget = Budget.read(folder)
    assert budget and budget.seconds_per_step
    speed = budget.tokens_per_step / budget.seconds_per_step
    print(json.dumps({"tokens_per_second": speed, "memory": counts["peak_memory_bytes"]}))


if __name__ == "__main__":
    main()
