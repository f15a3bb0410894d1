"""When a run ends before its budget: a function of what it has logged, so that a resumed run decides the same."""

import math
from typing import Any, NamedTuple

from codelm.config.watch import EarlyStop, Score
from training.metrics import BITS_PER_BYTE, EXACT_MATCH

COLUMNS: dict[Score, tuple[str, int]] = {"bits_per_byte": (BITS_PER_BYTE, -1), "exact_match": (EXACT_MATCH, 1)}
"""Score → its name in the log, and 1 if more is better."""


class Stop(NamedTuple):
    """Why a run ended."""

    rule: str
    why: str


class Stopper:
    """Reads the rows of a log in their order."""

    def __init__(self, config: EarlyStop, steps: int) -> None:
        """steps: of the whole budget."""
        self.config = config
        self.steps = steps
        self.stop: Stop | None = None
        self.best = dict.fromkeys(COLUMNS, -math.inf)
        self.plateau_best = -math.inf
        self.stale = 0
        self.lowest = math.inf
        self.high = 0

    def read(self, row: dict[str, Any]) -> None:
        """Takes a row into account; the first rule that ends the run stands in `stop`."""
        for score, (column, sign) in COLUMNS.items():
            if column in row:
                self.best[score] = max(self.best[score], sign * row[column])
        self.stop = self.stop or self.plateau(row) or self.divergence(row) or self.floor(row)

    def plateau(self, row: dict[str, Any]) -> Stop | None:
        """No improvement over so many evaluations."""
        rule = self.config.plateau
        if rule is None or COLUMNS[rule.score][0] not in row:
            return None
        column, sign = COLUMNS[rule.score]
        value = sign * row[column]
        if value > self.plateau_best and value - self.plateau_best >= rule.min_delta:
            self.plateau_best, self.stale = value, 0
            return None
        self.stale += 1
        if self.stale < rule.evaluations:
            return None
        return Stop(
            "plateau",
            f"{rule.score} {row[column]:.4g} at step {row['step']:,}, no better than {sign * self.plateau_best:.4g} by"
            f" {rule.min_delta:g} in {self.stale} evaluations",
        )

    def divergence(self, row: dict[str, Any]) -> Stop | None:
        """The loss stays far above its lowest."""
        rule = self.config.divergence
        if rule is None or "loss" not in row:
            return None
        loss = row["loss"]
        self.high = self.high + 1 if not loss <= rule.factor * self.lowest else 0  # not a number is high, too
        self.lowest = min(self.lowest, loss) if loss == loss else self.lowest
        if self.high < rule.logged_steps:
            return None
        return Stop(
            "divergence",
            f"loss {loss:.4g} at step {row['step']:,}, above {rule.factor:g} times the lowest ({self.lowest:.4g})"
            f" for {self.high} logged steps",
        )

    def floor(self, row: dict[str, Any]) -> Stop | None:
        """A score that has to be reached by a share of the steps is not."""
        rule = self.config.floor
        if rule is None or COLUMNS[rule.score][0] not in row or row["step"] < rule.share * self.steps:
            return None
        sign = COLUMNS[rule.score][1]
        if self.best[rule.score] >= sign * rule.value:
            return None
        return Stop(
            "floor",
            f"{rule.score} {sign * self.best[rule.score]:.4g} at best by step {row['step']:,}, {rule.value:g} was to be"
            f" reached by step {math.ceil(rule.share * self.steps):,}",
        )
