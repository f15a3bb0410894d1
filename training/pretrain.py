"""Pretraining: the stage `<run>/pretrain`, and the one loop.

The folder grows in place, since a killed run is to be resumed from it: `settings.json` says what it is a run of,
`preset.yaml` with which preset, `budget.json` how long it is, `checkpoint-<step>/` where it stands. The manifest comes last.
"""

import contextlib
import json
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from codelm.config.preset import Preset, PretrainConfig
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.models import build_model, parameter_count
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, disk_full_is_a_user_error, write_atomically
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer
from training import checkpoint, metrics
from training.budget import DEFAULT_TOKENS_PER_PARAMETER, Budget, measure
from training.data import PackedSamples, StepBatches, loader
from training.engine import Engine
from training.optimizer import adamw, learning_rate

SETTINGS = "settings.json"
PRESET = "preset.yaml"
OPERATIONAL = {"workers", "log_every", "checkpoint_seconds", "keep_checkpoints"}
"""Settings that may change when a run is resumed: the weights do not depend on them."""


def pretrain(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Trains to the end of the budget, from the newest checkpoint if there is one.

    tokens, tokenizer: the stage folders. restart: throw away what another or the same run left in `folder`. say: hears
    the few things worth a line. Raises UserError if the folder holds a run with other settings or a damaged checkpoint,
    KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    identity = {"model": preset.model.model_dump(), "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL)}
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    stage = Stage(
        folder, identity, inputs, preset.pretrain.seed, libraries=("torch", "transformers", "accelerate", "tokenizers", "numpy")
    )
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    if manifest := stage.done():
        return manifest
    started = time.monotonic()
    with disk_full_is_a_user_error(folder):
        claim(folder, stage)
        write_atomically(folder / PRESET, yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False))
        stage.counts = Run(folder, preset, tokens, tokenizer, progress, say).to_the_end()
        return stage.finish(folder, time.monotonic() - started)


def claim(folder: Path, stage: Stage) -> None:
    """Records what the folder is a run of. Raises UserError if it is a run of something else, saying what differs."""
    path = folder / SETTINGS
    settings = {"config": stage.config, "inputs": stage.inputs}
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = dict(flat(json.loads(path.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise UserError(f"{path} is damaged", "start the run anew with --restart") from error
    now = dict(flat(json.loads(json.dumps(settings))))
    differing = [
        key if key.startswith("inputs.") else f"{key.removeprefix('config.')} {before.get(key)} → {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(differing[:3])})",
            "give another folder with --run, or throw that training away with --restart",
        )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested mapping as dotted keys and values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


class Run:
    """One process of a pretraining run."""

    def __init__(
        self, folder: Path, preset: Preset, tokens: Path, tokenizer: Path, progress: Progress, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.preset = preset
        self.config: PretrainConfig = preset.pretrain
        self.progress = progress
        self.say = say
        self.tokenizer = Tokenizer(tokenizer / TOKENIZER_FILE)
        fim = self.tokenizer.fim
        self.valid = open_shard(tokens, "valid")
        self.samples = PackedSamples(
            open_shard(tokens, "train"), self.tokenizer, self.config.fim, preset.model.context_length, self.config.seed
        )
        model = build_model(preset.model, fim.endoftext, fim.fim_pad, self.config.seed)
        self.engine = Engine(model, adamw(model, self.config), self.config)
        if self.config.compile and self.engine.why_not_compiled:
            say(f"training uncompiled: {self.engine.why_not_compiled}")
        self.labels_per_step = (
            self.engine.ranks * self.config.gradient_accumulation * self.config.micro_batch_size * preset.model.context_length
        )

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.engine.rank == 0

    def to_the_end(self) -> dict[str, Any]:
        """Resumes or begins, trains, and returns what the manifest says of the run."""
        budget = Budget.read(self.folder) or self.set_budget()
        done = 0
        if newest := checkpoint.latest(self.folder):
            done = checkpoint.restore(newest, self.engine.model, self.engine.optimizer)
            if done < budget.steps:
                self.say(f"resuming at step {done:,} of {budget.steps:,}")
        seconds = self.train(done, budget)
        rows = metrics.read(self.folder)
        metrics.plot(self.folder)
        return {
            "parameters": parameter_count(self.preset.model),
            "steps": budget.steps,
            "tokens": budget.tokens,
            "epochs": round(budget.tokens / self.samples.epoch_tokens, 2),
            "tokens_per_second": round((budget.steps - done) * self.labels_per_step / seconds) if budget.steps > done else None,
            "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
            "valid_bits_per_byte": next(
                (row["valid_bits_per_byte"] for row in reversed(rows) if "valid_bits_per_byte" in row), None
            ),
            "checkpoint": f"{checkpoint.PREFIX}{budget.steps}",
        }

    def set_budget(self) -> Budget:
        """The budget of a run that begins: its tokens, or a measurement's worth of minutes."""
        if self.config.minutes is None:
            tokens = self.config.tokens or DEFAULT_TOKENS_PER_PARAMETER * parameter_count(self.preset.model)
            budget = Budget.of_tokens(tokens, self.labels_per_step)
        else:
            self.progress(0, None, note="compiling and measuring the speed of this machine")
            budget = Budget.of_minutes(self.config.minutes, self.labels_per_step, self.measure_step())
            self.say(
                f"{self.config.minutes:g} minutes are {budget.steps:,} steps, {budget.tokens:,} tokens"
                f" at {budget.tokens_per_step / (budget.seconds_per_step or 1):,.0f} tokens/s"
            )
        if self.leads:
            budget.write(self.folder)
        return budget

    def measure_step(self) -> float:
        """Seconds of a step, on the run's own data; the weights and the optimiser are put back afterwards."""
        weights = {name: tensor.clone() for name, tensor in self.engine.model.state_dict().items()}
        fresh = self.engine.optimizer.state_dict()
        batches = iter(loader(self.samples, self.batches(0, 1_000), workers=0))

        def step() -> None:
            for _ in range(self.config.gradient_accumulation):
                ids, labels = next(batches)
                self.engine.backward(ids, labels, self.labels_per_step)
            self.engine.update(0.0)

        seconds = measure(step)
        self.engine.model.load_state_dict(weights)
        self.engine.optimizer.load_state_dict(fresh)
        return seconds

    def batches(self, first: int, last: int) -> StepBatches:
        """This rank's micro-batches of steps first … last − 1."""
        config, engine = self.config, self.engine
        return StepBatches(first, last, config.micro_batch_size, config.gradient_accumulation, engine.rank, engine.ranks)

    def train(self, done: int, budget: Budget) -> float:
        """Steps done … budget.steps − 1; returns the seconds they took, validation and checkpoints included."""
        batches = iter(loader(self.samples, self.batches(done, budget.steps), self.config.workers))
        validate_every = max(1, budget.steps // self.config.validations) if self.config.validations else None
        started = saved = logged = time.monotonic()
        self.progress(done * self.labels_per_step, budget.tokens)
        with metrics.Metrics(self.folder, done) as log, finishing_the_step() as interrupted:
            for step in range(done, budget.steps):
                loss, norm, checksum = self.step(batches, learning_rate(step, budget.steps, self.config))
                finished = step + 1
                last = finished == budget.steps
                if finished % self.config.log_every == 0 or last:
                    now = time.monotonic()
                    logged_steps = (finished - done - 1) % self.config.log_every + 1
                    value = self.engine.total(loss) / self.labels_per_step
                    speed = logged_steps * self.labels_per_step / (now - logged)
                    logged = now
                    log.log(
                        finished,
                        tokens=finished * self.labels_per_step,
                        loss=value,
                        learning_rate=learning_rate(step, budget.steps, self.config),
                        gradient_norm=float(norm),
                        tokens_per_second=round(speed, 1),
                        batch_crc32=checksum,
                    )
                    facts = {"loss": f"{value:.3f}", "speed": f"{speed:,.0f} tokens/s"}
                    self.progress(finished * self.labels_per_step, budget.tokens, **facts)
                if validate_every and (finished % validate_every == 0 or last):
                    bits = bits_per_byte(self.engine.model, self.valid, self.tokenizer, self.config.validation_tokens)
                    log.log(finished, tokens=finished * self.labels_per_step, valid_bits_per_byte=bits)
                if self.leads and (last or interrupted.is_set() or time.monotonic() - saved > self.config.checkpoint_seconds):
                    checkpoint.save(
                        self.folder, finished, self.engine.model, self.engine.optimizer.optimizer, self.config.keep_checkpoints
                    )
                    saved = time.monotonic()
                if interrupted.is_set() and not last:
                    raise KeyboardInterrupt
        return time.monotonic() - started

    def step(self, batches: Iterator[Any], rate: float) -> tuple[torch.Tensor, torch.Tensor, int]:
        """One optimiser step. Returns this rank's summed loss, the gradient norm and a checksum of the token ids."""
        total, checksum = torch.zeros((), device=self.engine.accelerator.device), 0
        for _ in range(self.config.gradient_accumulation):
            ids, labels = next(batches)
            checksum = zlib.crc32(labels.numpy().tobytes(), zlib.crc32(ids.numpy().tobytes(), checksum))
            total += self.engine.backward(ids, labels, self.labels_per_step)
        return total, self.engine.update(rate), checksum


@contextlib.contextmanager
def finishing_the_step() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of interrupting; a second one interrupts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
