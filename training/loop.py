"""The one loop: steps from where a run stands to the end of its budget. What is trained, and on what, others say."""

import contextlib
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from codelm.config.pretrain import PretrainConfig
from codelm.corpus.tokens import TokenShard
from codelm.errors import UserError
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.progress import Progress
from codelm.tokenizer import Tokenizer
from training import checkpoint, metrics
from training.budget import Budget, measure
from training.data import PackedSamples, Sample, StepBatches, loader
from training.engine import Engine
from training.loss import IGNORE, KINDS
from training.schedule import learning_rate_share


class Loop:
    """One process of a training run."""

    def __init__(
        self,
        folder: Path,
        config: PretrainConfig,
        engine: Engine,
        samples: PackedSamples,
        valid: TokenShard,
        tokenizer: Tokenizer,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        """valid: held-out documents, for bits per byte. say: hears the few things worth a line.

        Raises UserError if the batch cannot be shared out among the ranks.
        """
        self.folder = folder
        self.config = config
        self.engine = engine
        self.samples = samples
        self.valid = valid
        self.tokenizer = tokenizer
        self.progress = progress
        self.say = say
        self.tokens_per_step = config.batch_size * samples.length
        per_pass = engine.ranks * config.micro_batch_size
        if config.batch_size % per_pass:
            raise UserError(
                f"batch_size {config.batch_size} cannot be shared out among {engine.ranks} ranks with micro-batches of"
                f" {config.micro_batch_size}",
                f"give a batch_size that is a multiple of {per_pass}, or another engine.micro_batch_size",
            )
        self.accumulation = config.batch_size // per_pass
        if config.engine.compile and engine.why_not_compiled:
            say(f"training uncompiled: {engine.why_not_compiled}")

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.engine.rank == 0

    def to_the_end(self) -> dict[str, Any]:
        """Resumes or begins, trains, and returns what the manifest says of the run."""
        budget = Budget.read(self.folder) or self.set_budget()
        done = 0
        if newest := checkpoint.latest(self.folder):
            done = self.engine.restore(newest)
            if done < budget.steps:
                self.say(f"resuming at step {done:,} of {budget.steps:,}")
        seconds = self.train(done, budget)
        if self.leads:
            metrics.plot(self.folder)
        rows = metrics.read(self.folder)
        return {
            "steps": budget.steps,
            "tokens": budget.tokens,
            "epochs": round(budget.tokens / self.samples.epoch_tokens, 2),
            "tokens_per_second": round((budget.steps - done) * self.tokens_per_step / seconds) if budget.steps > done else None,
            "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
            "valid_bits_per_byte": next(
                (row["valid_bits_per_byte"] for row in reversed(rows) if "valid_bits_per_byte" in row), None
            ),
            "checkpoint": f"{checkpoint.PREFIX}{budget.steps}",
        }

    def set_budget(self) -> Budget:
        """The budget of a run that begins: its tokens, or a measurement's worth of minutes."""
        if self.config.minutes is None:
            if self.config.tokens is None:
                raise UserError("the run has no budget", "give --tokens or --minutes")
            budget = Budget.of_tokens(self.config.tokens, self.tokens_per_step)
        else:
            self.progress(0, None, note="compiling and measuring the speed of this machine")
            budget = Budget.of_minutes(self.config.minutes, self.tokens_per_step, self.measure_step())
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
        seconds = measure(lambda: self.step(batches, 0, 0.0))
        self.engine.model.load_state_dict(weights)
        self.engine.optimizer.load_state_dict(fresh)
        return seconds

    def batches(self, first: int, last: int) -> StepBatches:
        """This rank's micro-batches of steps first … last − 1."""
        return StepBatches(first, last, self.config.micro_batch_size, self.accumulation, self.engine.rank, self.engine.ranks)

    def train(self, done: int, budget: Budget) -> float:
        """Steps done … budget.steps − 1; returns the seconds they took, validation and checkpoints included."""
        watch = self.config.watch
        batches = iter(loader(self.samples, self.batches(done, budget.steps), self.config.engine.workers))
        validate_every = max(1, budget.steps // watch.validations) if watch.validations else None
        started = saved = logged = time.monotonic()
        self.progress(done * self.tokens_per_step, budget.tokens)
        with metrics.Metrics(self.folder, done, self.leads) as log, finishing_the_step() as interrupted:
            for step in range(done, budget.steps):
                share = learning_rate_share(step, budget.steps, self.config)
                losses, labels, norm, checksum = self.step(batches, step, share)
                finished = step + 1
                last = finished == budget.steps
                if finished % watch.log_every == 0 or last:
                    now = time.monotonic()
                    logged_steps = (finished - done - 1) % watch.log_every + 1
                    by_kind, counts = self.engine.total(losses).tolist(), labels.tolist()
                    value = sum(by_kind) / max(sum(counts), 1)
                    speed = logged_steps * self.tokens_per_step / (now - logged)
                    logged = now
                    log.log(
                        finished,
                        tokens=finished * self.tokens_per_step,
                        loss=value,
                        **{f"loss_{kind}": by_kind[i] / counts[i] for i, kind in enumerate(KINDS) if counts[i]},
                        learning_rate=self.config.learning_rate * share,
                        gradient_norm=float(norm),
                        tokens_per_second=round(speed, 1),
                        batch_crc32=checksum,
                    )
                    facts = {"loss": f"{value:.3f}", "speed": f"{speed:,.0f} tokens/s"}
                    self.progress(finished * self.tokens_per_step, budget.tokens, **facts)
                if validate_every and (finished % validate_every == 0 or last):
                    bits = bits_per_byte(self.engine.model, self.valid, self.tokenizer, watch.validation_tokens)
                    log.log(finished, tokens=finished * self.tokens_per_step, valid_bits_per_byte=bits)
                if last or interrupted.is_set() or time.monotonic() - saved > watch.checkpoint_seconds:
                    self.engine.save(self.folder, finished, watch.keep_checkpoints)
                    saved = time.monotonic()
                if interrupted.is_set() and not last:
                    raise KeyboardInterrupt
        return time.monotonic() - started

    def step(
        self, batches: Iterator[Sample], number: int, share: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """One optimiser step.

        Returns this rank's −log p summed by kind and the labels of the step by kind over all ranks, each (len(KINDS),), the
        gradient norm, and a checksum of this rank's token ids.
        """
        parts = [next(batches) for _ in range(self.accumulation)]
        labels = self.engine.total(
            sum_of([torch.bincount(part.kinds[part.labels != IGNORE], minlength=len(KINDS)) for part in parts])
        )
        losses, checksum = [], 0
        for place, part in enumerate(parts):
            checksum = zlib.crc32(part.labels.numpy().tobytes(), zlib.crc32(part.ids.numpy().tobytes(), checksum))
            self.seed_dropout(number, place)
            losses.append(self.engine.backward(part, int(labels.sum())))
        return sum_of(losses), labels, self.engine.update(share), checksum

    def seed_dropout(self, step: int, place: int) -> None:
        """What dropout draws is a function of the seed, the step and the micro-batch, so that a resumed run draws the same."""
        if self.config.dropout or self.config.attention_dropout:
            number = (step * self.accumulation + place) * self.engine.ranks + self.engine.rank
            torch.manual_seed(zlib.crc32(f"{self.config.seed}/{number}".encode()))


def sum_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(tensors).sum(0)


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
