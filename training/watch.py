"""How a run is looked at while it goes on: its log, evaluations, checkpoints, and whether it ends early.

Rank 0 writes and decides by the clock and by the log; what it decides, all ranks do.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from codelm.config.pretrain import PretrainConfig
from codelm.corpus.tokens import TokenShard
from codelm.progress import Progress
from codelm.run_folder import BEST, SETTINGS, found, name_of
from codelm.stage import write_atomically
from codelm.tokenizer import Tokenizer
from training import checkpoint, watch_evaluation, watch_plot
from training.budget import Budget
from training.engine import Engine
from training.engine.precision import DTYPES
from training.loss import KINDS
from training.metrics import BITS_PER_BYTE, EDIT_SIMILARITY, EXACT_MATCH, Metrics, last
from training.schedule import decay_steps
from training.watch_clock import Clock, memory, peak_memory
from training.watch_evaluation import Evaluation
from training.watch_peak import Peak, peak_of
from training.watch_stop import Stop, Stopper


class Step(NamedTuple):
    """What a step of the loop has to tell."""

    losses: torch.Tensor
    """the parts of the loss, (len(KINDS) + len(engine.extras),), of this rank"""
    labels: torch.Tensor
    """labels by kind, (len(KINDS),), of all ranks"""
    label_bytes: int
    """bytes of text that this rank's labels stand for"""
    gradient_norm: torch.Tensor | float
    """before clipping"""
    learning_rate_share: float
    checksum: int
    """of this rank's token ids"""


class Watcher:
    """Of one process of a run."""

    def __init__(
        self,
        folder: Path,
        config: PretrainConfig,
        engine: Engine,
        budget: Budget,
        valid: TokenShard,
        tokenizer: Tokenizer,
        progress: Progress,
        say: Callable[[str], None],
        flops_per_token: float | None = None,
    ) -> None:
        """valid: held-out documents. say: hears of evaluations and of an early stop. flops_per_token: of training, for MFU."""
        self.folder = folder
        self.config = config
        self.engine = engine
        self.budget = budget
        self.evaluation = Evaluation(config.watch, valid, tokenizer)
        self.progress = progress
        self.say = say
        self.leads = engine.leads
        decay = decay_steps(budget.steps, config)
        self.stable = budget.steps - decay if decay else None
        """The step after which the learning rate falls: its checkpoint stays, for other ways to go on from it."""
        self.stopper = Stopper(config.watch.early_stop, budget.steps)
        self.rows: list[dict[str, Any]] = []
        self.flops_per_token = flops_per_token
        self.peak: Peak | None = None
        if flops_per_token and self.leads:
            self.peak = peak_of(engine.device, DTYPES.get(engine.precision, torch.float32))

    def begin(self, done: int) -> Self:
        """From a checkpoint after `done` steps: what was logged up to it counts, what was logged beyond it is dropped."""
        self.first = self.done = self.logged = done
        self.log = Metrics(self.folder, done, self.config.watch.wandb, self.settings()) if self.leads else None
        if self.log:
            self.rows = self.log.kept
            for row in self.rows:
                self.stopper.read(row)
            self.mark_best()
        self.clock = Clock(last(self.rows, "seconds") or 0.0)
        self.saved = time.monotonic()
        steps = f"{self.budget.steps - done:,} steps of {self.budget.tokens_per_step:,} tokens"
        compiling = not (self.engine.why_not_compiled or self.engine.has_compiled)
        note = f"{steps}, the first of which compiles" if compiling else steps
        self.progress(done * self.budget.tokens_per_step, self.budget.tokens, note=note)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.log:
            self.log.__exit__(kind, error, traceback)

    def settings(self) -> dict[str, Any]:
        """What the folder is a run of."""
        path = self.folder / SETTINGS
        return (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"pretrain": self.config.model_dump(mode="json")}
        )

    def mfu(self, tokens_per_second: float) -> dict[str, float]:
        """Model FLOPs utilisation: the model's products over what all ranks could do (arXiv 2204.02311, appendix B)."""
        if not self.peak or not self.flops_per_token:
            return {}
        return {"mfu": round(self.flops_per_token * tokens_per_second / (self.peak.flops * self.engine.world.count), 4)}

    @property
    def stop(self) -> Stop | None:
        """Why the run ends early, if it does; only rank 0 knows."""
        return self.stopper.stop

    @property
    def evaluates(self) -> bool:
        """Whether checkpoints are evaluated at all."""
        return bool(self.config.watch.evaluations or self.config.watch.checkpoint_steps)

    def ended(self) -> bool:
        """Whether the run is over: its budget is used, or a rule has stopped it. The same on all ranks."""
        (stopped,) = self.engine.agree(self.stop is not None)
        return stopped or self.done == self.budget.steps

    def after_step(self, step: Step, interrupted: bool) -> bool:
        """Logs, evaluates and saves what is due; returns whether the run ends here. All ranks call it after each step.

        Raises KeyboardInterrupt if a rank was interrupted, with a checkpoint written; NotFiniteError if what is due would look
        at a model that is broken.
        """
        self.done += 1
        ends = self.done == self.budget.steps
        if self.done % self.config.watch.log_every == 0 or ends:
            self.engine.check_finite()
            self.log_step(step)
        overdue = self.leads and time.monotonic() - self.saved > self.config.watch.checkpoint_seconds
        overdue, interrupted, stopped = self.engine.agree(overdue, interrupted, self.stop is not None)
        due = watch_evaluation.is_due(self.done, self.budget.steps, self.config.watch)
        if due or (stopped and self.evaluates):
            self.evaluate()
            (stopped,) = self.engine.agree(self.stop is not None)
        if stopped and self.stop:
            self.say(f"stopped by {self.stop.rule}: {self.stop.why}")
        ends = ends or stopped
        if ends or due or overdue or interrupted or self.done == self.stable:
            self.save()
        if interrupted and not ends:
            raise KeyboardInterrupt
        return ends

    def log_step(self, step: Step) -> None:
        """A row of what the step learned and what it took."""
        own = torch.cat([step.losses.double(), step.losses.new_tensor([step.label_bytes], dtype=torch.float64)])
        summed = self.engine.total(own)  # waits for the device, so it is no part of what logging takes
        with self.clock.spent_on("log"):
            *parts, label_bytes = summed.tolist()
            by_kind, extras = parts[: len(KINDS)], parts[len(KINDS) :]
            counts = step.labels.tolist()
            loss = sum(by_kind) / max(sum(counts), 1)
            seconds, overhead = self.clock.next_lap()
            tokens = (self.done - self.logged) * self.budget.tokens_per_step
            self.logged = self.done
            norm = float(step.gradient_norm)
            self.write(
                loss=loss,
                **{f"loss_{kind}": by_kind[i] / counts[i] for i, kind in enumerate(KINDS) if counts[i]},
                **{name: value / max(sum(counts), 1) for name, value in zip(self.engine.extras, extras, strict=True) if value},
                bits_per_byte=sum(by_kind) / math.log(2) / max(label_bytes, 1),
                learning_rate=self.config.learning_rate * step.learning_rate_share,
                **({"gradient_norm": norm} if math.isfinite(norm) else {}),  # float16 leaves such steps out
                batch_crc32=step.checksum,
                tokens_per_second=round(tokens / seconds, 1),
                **self.mfu(tokens / seconds),
                memory_bytes=memory(self.engine.device),
                overhead_share=round(overhead, 4),
            )
            facts = {"loss": f"{loss:.3f}", "speed": f"{tokens / seconds:,.0f} tokens/s"}
            self.progress(self.done * self.budget.tokens_per_step, self.budget.tokens, **facts)

    def evaluate(self) -> None:
        """A row of what the model is worth on held-out files. Every rank computes it, for a model may be spread over them."""
        self.engine.check_finite()
        started = time.monotonic()
        with self.clock.spent_on("evaluation"), self.engine.evaluating() as model:
            scores = self.evaluation(model)
        self.write(**scores, evaluation_seconds=round(time.monotonic() - started, 3))
        if self.leads:
            match = f", {scores[EXACT_MATCH]:.1%} exact match" if EXACT_MATCH in scores else ""
            self.say(f"step {self.done:,}: {scores[BITS_PER_BYTE]:.3f} bits per byte{match} on held-out files")

    def write(self, **values: Any) -> None:
        """Appends a row, and hears what it means for an early stop."""
        if self.log:
            tokens = self.done * self.budget.tokens_per_step
            row = self.log.log(self.done, tokens=tokens, **values, seconds=round(self.clock.seconds, 3))
            self.rows.append(row)
            self.stopper.read(row)

    def save(self) -> None:
        """A checkpoint; of those before it the newest stay, the best one, and the last one before the learning rate falls."""
        with self.clock.spent_on("checkpoint"):
            self.engine.save(self.folder, self.done)
            if self.leads:
                spared = {self.mark_best() or "", name_of(self.stable or 0)}
                checkpoint.prune(self.folder, self.config.watch.keep_checkpoints, spared)
            self.saved = time.monotonic()

    def mark_best(self) -> str | None:
        """Writes which of the checkpoints that are there is the best by infilling; returns its name."""
        there = {path.name for path in found(self.folder)}
        rows = [row for row in self.rows if BITS_PER_BYTE in row and name_of(row["step"]) in there]
        if not rows:
            return None
        row = max(rows, key=watch_evaluation.rank)
        best = {"checkpoint": name_of(row["step"]), **{key: row[key] for key in row if key in SCORES}}
        write_atomically(self.folder / BEST, json.dumps(best, indent=2) + "\n")
        return str(best["checkpoint"])

    def counts(self) -> dict[str, Any]:
        """What the manifest says of the run; rank 0 draws its picture besides."""
        tokens = (self.done - self.first) * self.budget.tokens_per_step
        speed = round(tokens / (self.clock.seconds - self.clock.before)) if tokens else None
        if self.leads:
            watch_plot.plot(self.folder)
        return {
            "steps": self.done,
            "tokens": self.done * self.budget.tokens_per_step,
            "tokens_per_second": speed,
            "stopped": self.stop._asdict() if self.stop else None,
            "loss": last(self.rows, "loss"),
            BITS_PER_BYTE: last(self.rows, BITS_PER_BYTE),
            EXACT_MATCH: last(self.rows, EXACT_MATCH),
            "checkpoint": name_of(self.done),
            "best_checkpoint": self.mark_best(),
            "peak_memory_bytes": peak_memory(self.engine.device),
            "time_shares": self.clock.shares(),
            "peak_flops": self.peak._asdict() if self.peak else None,
        }


SCORES = ("step", "tokens", BITS_PER_BYTE, EXACT_MATCH, EDIT_SIMILARITY)
"""What best.json repeats of a row."""
