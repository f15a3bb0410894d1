"""What to do after a round, computed from what it measured."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field

from training.plan.checks import MANY_EPOCHS
from training.plan.plan import StagePlan

GAIN = 0.01
"""Share of the bits per byte that a round has to gain to be worth another one."""
FALLING = 0.005
"""Share by which the loss falls over the last tenth of a run that has not come to its end."""
JUMP = 1.2
"""A loss this many times the one logged before it is a jump."""
GAP = 1.15
"""Held-out bits per byte over those of training, from which it looks learned by heart."""
SLOW = 0.85
"""Share of the planned speed."""


class Advice(BaseModel):
    """One thing to do, and why."""

    what: str
    why: str
    command: str | None = Field(None, description="that does it, without the run folder")


def advise(
    plan: StagePlan,
    number: int,
    counts: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    config: dict[str, Any],
    bits: float,
    best_before: float | None,
    failed: Sequence[str],
) -> list[Advice]:
    """What to do after round `number`, the most pressing first.

    counts, config: of the training's manifest. rows: of its log. bits: held-out bits per byte. best_before: those of the best
    round before. failed: gates that were not passed.
    """
    training = config["pretrain"]
    found: list[Advice] = []
    for one in (
        *of_stops(plan, number, counts, training),
        *of_jumps(plan, number, rows, training),
        *of_data(plan, number, counts, rows, bits),
        *of_the_end(plan, number, rows, counts),
        *of_speed(plan, counts, rows),
    ):
        if one.command is None or one.command not in [other.command for other in found]:
            found.append(one)
    return [*found, *of_rounds(plan, number, training, bits, best_before, failed, changed=any(one.command for one in found))]


def again(plan: StagePlan, number: int, *settings: str) -> str:
    """The command of another round."""
    changes = "".join(f" --set {setting}" for setting in settings)
    return f"codelm train stages --execute --stages {plan.id} --round {number + 1}{changes}"


def of_stops(plan: StagePlan, number: int, counts: dict[str, Any], training: dict[str, Any]) -> Iterator[Advice]:
    """After an early end."""
    if not (stopped := counts["stopped"]):
        return
    half = halved(training)
    if stopped["rule"] == "divergence":
        yield Advice(what="Halve the learning rate", why=f"it diverged: {stopped['why']}", command=again(plan, number, half))
    elif stopped["rule"] == "floor":
        yield Advice(
            what="Look at the data first, then at the learning rate",
            why=f"it fell behind the stage before: {stopped['why']}",
            command=again(plan, number, half),
        )
    else:
        yield Advice(what="Go on with more or other data rather than longer", why=f"it learned no more: {stopped['why']}")


def of_jumps(plan: StagePlan, number: int, rows: Sequence[dict[str, Any]], training: dict[str, Any]) -> Iterator[Advice]:
    """By jumps of the loss after the warmup."""
    logged = [row["loss"] for row in rows if "loss" in row]
    logged = logged[round(training["warmup_share"] * len(logged)) :]
    jumps = sum(later > JUMP * before for before, later in itertools.pairwise(logged))
    if jumps > 1:
        why = f"the loss jumped {jumps} times"
        yield Advice(what="Halve the learning rate", why=why, command=again(plan, number, halved(training)))


def of_data(
    plan: StagePlan, number: int, counts: dict[str, Any], rows: Sequence[dict[str, Any]], bits: float
) -> Iterator[Advice]:
    """By the passes over the data, and by what is learned by heart."""
    if counts["epochs"] > MANY_EPOCHS:
        yield Advice(
            what="Add sources to the corpus",
            why=f"{counts['epochs']:.1f} passes over the same code; beyond {MANY_EPOCHS} each is worth less",
        )
    last = [row["bits_per_byte"] for row in tail(rows, "bits_per_byte")]
    if last and counts["epochs"] > 1 and bits > GAP * (mean := sum(last) / len(last)):
        yield Advice(
            what="Deduplicate more, add sources, or set dropout",
            why=f"{bits:.3f} bits per byte held out, {mean:.3f} in training: it learns by heart",
            command=again(plan, number, "pretrain.dropout=0.1"),
        )


def of_the_end(plan: StagePlan, number: int, rows: Sequence[dict[str, Any]], counts: dict[str, Any]) -> Iterator[Advice]:
    """By how the loss moved over the last tenth of the run."""
    logged = [row for row in rows if "loss" in row]
    tenth = len(logged) // 10
    if tenth < 2 or counts["stopped"]:
        return
    before, after = (sum(row["loss"] for row in part) / tenth for part in (logged[-2 * tenth : -tenth], logged[-tenth:]))
    fell = 1 - after / before
    if fell > FALLING:
        more = 2 * counts["tokens"]
        command = again(plan, number, f"pretrain.tokens={more}") if 2 * counts["epochs"] <= MANY_EPOCHS else None
        yield Advice(
            what="Train on more tokens" if command else "Train on more tokens, of more code",
            why=f"the loss still fell by {fell:.1%} over the last tenth",
            command=command,
        )


def speed_of(rows: Sequence[dict[str, Any]]) -> float | None:
    """Tokens/s as they were logged, which a plan foretells: without evaluations, and without what compiling took."""
    logged = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    return statistics.median(logged) if logged else None


def of_speed(plan: StagePlan, counts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Iterator[Advice]:
    """By what was planned, and by where the time went."""
    actual, shares = speed_of(rows), {name: share for name, share in counts["time_shares"].items() if name != "evaluation"}
    if actual and plan.tokens_per_second and actual < SLOW * plan.tokens_per_second:
        most = max(shares, key=shares.__getitem__)
        yield Advice(
            what="Look at what else this machine does" if shares[most] < 0.1 else f"Look at what the {most} takes",
            why=f"{actual:,.0f} tokens/s, planned were {plan.tokens_per_second:,.0f};"
            f" {most} took {shares[most]:.0%} of the time",
        )


def of_rounds(
    plan: StagePlan,
    number: int,
    training: dict[str, Any],
    bits: float,
    best_before: float | None,
    failed: Sequence[str],
    changed: bool,
) -> Iterator[Advice]:
    """Whether there is another round. changed: whether something is there to be changed in it."""
    gain = None if best_before is None else 1 - bits / best_before
    double = f"pretrain.learning_rate={2 * training['learning_rate']:g}"
    if number < plan.rounds:
        why = f"round {number} of at least {plan.rounds}"
        if changed:
            yield Advice(what="Train another round, with one of these changes", why=why)
        else:
            yield Advice(
                what="Train another round, with twice the learning rate",
                why=f"{why}; nothing speaks against more",
                command=again(plan, number, double),
            )
    elif failed:
        yield Advice(what="Train another round, or go back to the data", why="; ".join(failed))
    elif gain is not None and gain > GAIN:
        yield Advice(what="Train another round", why=f"this one gained {gain:.1%}", command=again(plan, number))
    else:
        why = "the rounds are done" if gain is None else f"this round gained {gain:.1%}, less than {GAIN:.0%}"
        yield Advice(what="Go on to the next stage", why=why)


def halved(training: dict[str, Any]) -> str:
    """A setting."""
    return f"pretrain.learning_rate={training['learning_rate'] / 2:g}"


def tail(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The last tenth of the rows that have a value."""
    having = [row for row in rows if name in row]
    return having[-max(1, len(having) // 10) :]
