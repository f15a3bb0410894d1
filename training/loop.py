"""The one loop: steps from where a run stands to the end of its budget. What is trained, and on what, others say."""

import contextlib
import json
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from codelm import checkpoints
from codelm.config.pretrain import PretrainConfig
from codelm.corpus.tokens import TokenShard
from codelm.errors import UserError
from codelm.progress import Progress
from codelm.run_folder import NOT_FINITE, found
from codelm.stage import write_atomically
from codelm.tokenizer import Tokenizer
from training.budget import Budget, measure
from training.data import PackedSamples, Sample, StepBatches, loader
from training.engine import Engine, NotFiniteError
from training.loss import IGNORE, KINDS
from training.schedule import decay_steps, learning_rate_share
from training.watch import Step, Watcher

TOLD = "\nending after this step, with a checkpoint; Ctrl-C again ends at once, without one\n"


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
        flops_per_token: float | None = None,
        start: Path | None = None,
    ) -> None:
        """valid: held-out documents, for evaluations. say: hears the few things worth a line. flops_per_token: for MFU.

        start: another run's checkpoint that this run takes up as if it were its own, step, data position and optimiser too.
        """
        self.folder = folder
        self.config = config
        self.engine = engine
        self.samples = samples
        self.valid = valid
        self.tokenizer = tokenizer
        self.progress = progress
        self.say = say
        self.flops_per_token = flops_per_token
        self.start = start
        adapters_drop = any(isinstance(module, torch.nn.Dropout) and module.p for module in engine.model.modules())
        self.drops_out = bool(config.dropout or config.attention_dropout or adapters_drop)
        self.byte_lengths = torch.tensor([len(piece) for piece in tokenizer.token_bytes])
        self.tokens_per_step = config.batch_size * samples.length
        self.accumulation = config.batch_size // (engine.ranks * config.micro_batch_size)

    def to_the_end(self) -> dict[str, Any]:
        """Resumes or begins, trains, and returns what the manifest says of the run."""
        self.check_compiled()
        first = self.engine.world.first
        budget = first(lambda: Budget.read(self.folder)) or self.set_budget()
        if decay := decay_steps(budget.steps, self.config):
            self.samples = self.samples.annealed_from((budget.steps - decay) * self.config.batch_size)
        done = 0
        if newest := first(lambda: checkpoints.latest(self.folder)) or self.start:
            done = self.engine.restore(newest)
            if done < budget.steps:
                self.say(f"resuming at step {done:,} of {budget.steps:,}")
        watcher = Watcher(
            self.folder,
            self.config,
            self.engine,
            budget,
            self.valid,
            self.tokenizer,
            self.progress,
            self.say,
            self.flops_per_token,
        )
        with watcher.begin(done):
            if not watcher.ended():
                self.train(watcher)
            counts = watcher.counts()
        return counts | {"epochs": round(counts["tokens"] / self.samples.epoch_tokens, 2), "data": self.samples.facts()}

    def check_compiled(self) -> None:
        """Compiles, and tells if training will go on uncompiled."""
        if not self.drops_out and not self.engine.why_not_compiled:  # with dropout each pass computes another model
            self.progress(0, None, note="compiling")
            self.engine.check_compiled(next(iter(loader(self.samples, self.batches(0, 1), workers=0))))
        if self.config.engine.compile and self.engine.why_not_compiled:
            self.say(f"training uncompiled: {self.engine.why_not_compiled}")

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
        if self.engine.leads:
            budget.write(self.folder)
        return budget

    def measure_step(self) -> float:
        """Seconds of a step, on the run's own data, at a learning rate of 0, so that the run begins as if it had not been."""
        batches = iter(loader(self.samples, self.batches(0, 1_000), workers=0))
        seconds = measure(lambda: self.step(self.next_batch(batches), 0, 0.0), self.engine.world.first)
        self.engine.forget()
        return seconds

    def batches(self, first: int, last: int) -> StepBatches:
        """This rank's micro-batches of steps first … last − 1."""
        return StepBatches(first, last, self.config.micro_batch_size, self.accumulation, self.engine.rank, self.engine.ranks)

    def train(self, watcher: Watcher) -> None:
        """Steps from where the run stands until it ends."""
        batches = iter(loader(self.samples, self.batches(watcher.done, watcher.budget.steps), self.config.engine.workers))
        with finishing_the_step(self.engine.leads) as asked:
            ended = False
            while not ended:
                share = learning_rate_share(watcher.done, watcher.budget.steps, self.config)
                with watcher.clock.spent_on("data"):
                    batch = self.next_batch(batches)
                step = self.step(batch, watcher.done, share)
                try:
                    ended = watcher.after_step(step, bool(asked) or self.engine.world.orphaned())
                except NotFiniteError as error:
                    raise self.not_finite(error.step) from None

    def not_finite(self, step: int) -> UserError:
        """What a user is told of a step, counted from 0, that broke the model; all of it is in `not_finite.json`."""
        first, after = step * self.config.batch_size, (step + 1) * self.config.batch_size
        documents = list(dict.fromkeys(place for i in range(first, after) for place in self.samples.documents(i)))
        if self.engine.leads:
            facts = {"step": step + 1, "samples": [first, after - 1], "documents": documents}
            write_atomically(self.folder / NOT_FINITE, json.dumps(facts, indent=2) + "\n")
        shown = ", ".join(documents[:3]) + (f" and {len(documents) - 3:,} more" if len(documents) > 3 else "")
        fix = "begin anew with --restart and a lower pretrain.learning_rate"
        if good := found(self.folder):  # what is broken is not saved
            fix = f"the last good checkpoint is {good[-1]}: begin with it elsewhere (--out, --init) at a lower learning rate"
            if self.engine.precision != "no":
                fix += ", or go on from it with --set pretrain.engine.precision=no"
        return UserError(
            f"the loss or the gradient of step {step + 1:,} is no finite number; it read samples {first:,} to {after - 1:,}, of"
            f" {shown} ({self.folder / NOT_FINITE} names all)",
            fix,
        )

    def next_batch(self, batches: Iterator[Sample]) -> list[Sample]:
        """This rank's micro-batches of the next step."""
        return [next(batches) for _ in range(self.accumulation)]

    def step(self, batch: list[Sample], number: int, share: float) -> Step:
        """One optimiser step. share: of the peak learning rate."""
        labels = self.engine.total(
            sum_of([torch.bincount(part.kinds[part.labels != IGNORE], minlength=len(KINDS)) for part in batch])
        )
        losses, checksum = [], 0
        for place, part in enumerate(batch):
            checksum = zlib.crc32(part.labels.numpy().tobytes(), zlib.crc32(part.ids.numpy().tobytes(), checksum))
            self.seed_dropout(number, place)
            losses.append(self.engine.backward(part, int(labels.sum()), last=place == len(batch) - 1))
        norm = self.engine.update(share)
        label_bytes = sum(int(self.byte_lengths[part.labels[part.labels != IGNORE]].sum()) for part in batch)
        return Step(sum_of(losses), labels, label_bytes, norm, share, checksum)

    def seed_dropout(self, step: int, place: int) -> None:
        """What dropout draws is a function of the seed, the step and the micro-batch, so that a resumed run draws the same."""
        if self.drops_out:
            world = self.engine.world
            torch.manual_seed(zlib.crc32(f"{self.config.seed}/{step}/{place * world.count + world.rank}".encode()))


def sum_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(tensors).sum(0)


@contextlib.contextmanager
def finishing_the_step(tells: bool) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are put down in the list instead of ending the process; after Ctrl-C, either of them does so at once.

    tells: whether a user hears of it, on stderr.

    SIGTERM may come more than once: from a scheduler to every process, and again by way of the launcher.
    """
    received: list[int] = []  # no threading.Event: a handler that interrupts a handler would wait for its lock for ever
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        if received and signal.SIGINT in (number, received[0]):
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
            return
        received.append(number)
        if number == signal.SIGINT and tells:
            os.write(2, TOLD.encode())  # print() is not for signal handlers

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
