"""What to do after a round, computed from what it measured."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from training.plan.checks import MANY_EPOCHS
from training.plan.plan import StagePlan

GAIN = 0.01
"""Share of the bits per byte that a round has to gain to be worth another one."""
FALLING = 0.005
"""Share by which the loss falls over the last tenth of a run that has not come to its end."""
JUMP = 1.2
"""Losses this many times the median of those before them are a jump, if they stay there: one batch of another kind is none."""
BEFORE, STAYS = 10, 3
"""Logged losses that a jump is held against, and those that it lasts for."""
GAP = 1.15
"""Held-out bits per byte over those of training, from which it looks learned by heart."""
SLOW = 0.85
"""Share of the planned speed."""


Again = Callable[[Mapping[str, Any]], str]
"""Settings → the command of another round with them."""


class Advice(BaseModel):
    """One thing to do, and why."""

    what: str
    why: str
    command: str | None = Field(None, description="that does it")


def advise(
    plan: StagePlan,
    number: int,
    counts: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    config: dict[str, Any],
    bits: float,
    best_before: float | None,
    failed: Sequence[str],
    options: Sequence[str] = (),
) -> list[Advice]:
    """What to do after round `number`, the most pressing first.

    counts, config: of the training's manifest. rows: of its log. bits: held-out bits per byte. best_before: those of the best
    round before. failed: gates that were not passed. options: of the command line that began the round.
    """
    training = config["pretrain"]
    again = partial(another_round, plan, number, options)
    found: list[Advice] = []
    for one in (
        *of_stops(again, counts, training),
        *of_jumps(again, rows, training),
        *of_data(again, counts, rows, bits),
        *of_the_end(again, rows, counts),
        *of_speed(plan, counts, rows),
    ):
        if one.command is None or one.command not in [other.command for other in found]:
            found.append(one)
    changed = any(one.command for one in found)
    return [*found, *of_rounds(plan, number, again, training, bits, best_before, failed, changed)]


def another_round(plan: StagePlan, number: int, options: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The command of another round: that of the last one with other settings."""
    given = {option.partition("=")[0]: option for option in options}
    if "pretrain.tokens" in settings:
        given.pop("--set pretrain.minutes", None)
    for name, value in settings.items():
        given[f"--set {name}"] = f"--set {name}={value:g}" if isinstance(value, float) else f"--set {name}={value}"
    return " ".join([f"codelm train stages --execute --stages {plan.id} --round {number + 1}", *given.values()])


def of_stops(again: Again, counts: dict[str, Any], training: dict[str, Any]) -> Iterator[Advice]:
    """After an early end."""
    if not (stopped := counts["stopped"]):
        return
    half = rates(training, 0.5)
    if stopped["rule"] == "divergence":
        yield Advice(what="Halve the learning rate", why=f"it diverged: {stopped['why']}", command=again(half))
    elif stopped["rule"] == "floor":
        yield Advice(
            what="Look at the data first, then at the learning rate",
            why=f"it fell behind the stage before: {stopped['why']}",
            command=again(half),
        )
    else:
        yield Advice(what="Go on with more or other data rather than longer", why=f"it learned no more: {stopped['why']}")


def of_jumps(again: Again, rows: Sequence[dict[str, Any]], training: dict[str, Any]) -> Iterator[Advice]:
    """By jumps of the loss after the warmup."""
    logged = [row["loss"] for row in rows if "loss" in row]
    logged = logged[round(training["warmup_share"] * len(logged)) :]
    high = [
        min(logged[place : place + STAYS]) > JUMP * statistics.median(logged[place - BEFORE : place])
        for place in range(BEFORE, len(logged) - STAYS + 1)
    ]
    if jumps := sum(now and not before for before, now in itertools.pairwise([False, *high])):
        why = f"the loss jumped {'once' if jumps == 1 else f'{jumps} times'}, and stayed high for a while"
        yield Advice(what="Halve the learning rate", why=why, command=again(rates(training, 0.5)))


def of_data(again: Again, counts: dict[str, Any], rows: Sequence[dict[str, Any]], bits: float) -> Iterator[Advice]:
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
            command=again({"pretrain.dropout": 0.1}),
        )


def of_the_end(again: Again, rows: Sequence[dict[str, Any]], counts: dict[str, Any]) -> Iterator[Advice]:
    """By how the loss moved over the last tenth of the run."""
    logged = [row for row in rows if "loss" in row]
    tenth = len(logged) // 10
    if tenth < 2 or counts["stopped"]:
        return
    before, after = (sum(row["loss"] for row in part) / tenth for part in (logged[-2 * tenth : -tenth], logged[-tenth:]))
    fell = 1 - after / before
    if fell > FALLING:
        more = 2 * counts["tokens"]
        command = again({"pretrain.tokens": more}) if 2 * counts["epochs"] <= MANY_EPOCHS else None
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
    again: Again,
    training: dict[str, Any],
    bits: float,
    best_before: float | None,
    failed: Sequence[str],
    changed: bool,
) -> Iterator[Advice]:
    """Whether there is another round. changed: whether something is there to be changed in it."""
    gain = None if best_before is None else 1 - bits / best_before
    if number < plan.rounds:
        why = f"round {number} of at least {plan.rounds}"
        if changed:
            yield Advice(what="Train another round, with one of these changes", why=why)
        else:
            yield Advice(
                what="Train another round, with twice the learning rate",
                why=f"{why}; nothing speaks against more",
                command=again(rates(training, 2)),
            )
    elif failed:
        yield Advice(what="Train another round, or go back to the data", why="; ".join(failed))
    elif gain is not None and gain > GAIN:
        yield Advice(what="Train another round, with one more change", why=f"this one gained {gain:.1%}")
    else:
        why = "the rounds are done" if gain is None else f"this round gained {gain:.1%}, less than {GAIN:.0%}"
        yield Advice(what="Go on to the next stage", why=why)


def rates(training: dict[str, Any], factor: float) -> dict[str, float]:
    """The settings of the learning rates times a factor: Muon has one for the matrices of the blocks besides."""
    names = ["learning_rate", *(["muon_learning_rate"] if training["optimizer"] == "muon" else [])]
    return {f"pretrain.{name}": training[name] * factor for name in names}


def tail(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The last tenth of the rows that have a value."""
    having = [row for row in rows if name in row]
    return having[-max(1, len(having) // 10) :]
