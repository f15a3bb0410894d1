"""What came of a round: scores, plan against actual, whether the gate is passed, and what to do next. JSON and HTML."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, computed_field

from codelm.config.stages import Gate
from codelm.page import rendered
from codelm.run_folder import PLOT
from codelm.stage import Manifest
from training import metrics
from training.metrics import BITS_PER_BYTE
from training.plan.plan import StagePlan
from training.stages.advice import Advice, advise, speed_of

TEMPLATE = Path(__file__).parent / "review.html.j2"
TOLERANCE = 0.15
"""Plan and actual that are closer than this agree."""


class Comparison(BaseModel):
    """One figure, as it was planned and as it is."""

    name: str
    unit: str
    planned: float | None
    actual: float | None

    @computed_field  # type: ignore[prop-decorator] # pydantic's own way
    @property
    def ratio(self) -> float | None:
        """Actual over planned."""
        return self.actual / self.planned if self.planned and self.actual is not None else None

    @property
    def agrees(self) -> bool | None:
        """Whether they are within TOLERANCE; None if one of them is unknown."""
        return None if self.ratio is None else abs(self.ratio - 1) <= TOLERANCE


class Step(BaseModel):
    """What one of the steps of a stage has done."""

    name: Literal["pretrain", "sft", "evaluate"]
    said: str


class Review(BaseModel):
    """A finished round."""

    stage: str
    name: str
    round: int
    bits_per_byte: float
    exact_match: float | None
    half_bits_per_byte: float | None = Field(
        None, description="of the first light evaluation from half of the steps on, which is the floor of the next stage there"
    )
    previous: str | None = Field(description="the stage that it is held against")
    previous_bits_per_byte: float | None
    best_before: float | None = Field(description="bits per byte of the best of the earlier rounds")
    tokens: int
    epochs: float
    stopped: str | None = Field(description="why it ended early")
    checkpoint: str
    steps: list[Step]
    comparisons: list[Comparison]
    passed: bool = True
    failed_gates: list[str] = []
    advice: list[Advice] = []


def review(
    plan: StagePlan,
    number: int,
    pretrain: Path,
    evaluate: Path,
    steps: list[Step],
    gate: Gate,
    previous: float | None,
    earlier: list[float],
    options: Sequence[str] = (),
) -> Review:
    """The review of a round whose training and evaluation stand.

    number: of the round. pretrain, evaluate: the stage folders. previous: bits per byte of the stage before. earlier: those of
    the rounds before. options: of the command line that began it.
    """
    trained, scores = Manifest.read(pretrain), Manifest.read(evaluate).counts
    counts, rows = trained.counts, metrics.read(pretrain)
    best_before = min(earlier, default=None)
    found = Review(
        stage=plan.id,
        name=plan.name,
        round=number,
        bits_per_byte=scores["bits_per_byte"],
        exact_match=scores["exact_match"],
        half_bits_per_byte=bits_at_half(counts, rows),
        previous=plan.after,
        previous_bits_per_byte=previous,
        best_before=best_before,
        tokens=counts["tokens"],
        epochs=counts["epochs"],
        stopped=counts["stopped"]["why"] if counts["stopped"] else None,
        checkpoint=counts["checkpoint"],
        steps=steps,
        comparisons=comparisons(plan, counts, rows, pretrain),
    )
    failed = failed_gates(gate, found, previous)
    advice = advise(plan, number, counts, rows, trained.config, found.bits_per_byte, best_before, failed, options)
    return found.model_copy(update={"passed": not failed, "failed_gates": failed, "advice": advice})


def bits_at_half(counts: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Of the first light evaluation from half of the steps on; None if there is none, or if the run ended before."""
    if counts["stopped"]:
        return None
    return next((row[BITS_PER_BYTE] for row in rows if BITS_PER_BYTE in row and 2 * row["step"] >= counts["steps"]), None)


def comparisons(plan: StagePlan, counts: dict[str, Any], rows: list[dict[str, Any]], pretrain: Path) -> list[Comparison]:
    """Plan against actual."""
    seconds = metrics.last(rows, "seconds")
    newest = pretrain / counts["checkpoint"]
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()) if newest.is_dir() else None
    found = {
        "parameters": ("", plan.parameters, counts["parameters"]),
        "tokens": ("", plan.tokens, counts["tokens"]),
        "tokens/s": ("", plan.tokens_per_second, speed_of(rows)),
        "hours": ("", plan.hours, seconds / 3600 if seconds is not None else None),
        "memory of a device": ("GB", plan.memory_counted / 1e9, counts["peak_memory_bytes"] / 1e9),
        "checkpoint": ("MB", plan.checkpoint_bytes / 1e6, size / 1e6 if size is not None else None),
    }
    return [Comparison(name=name, unit=unit, planned=one, actual=other) for name, (unit, one, other) in found.items()]


def failed_gates(gate: Gate, found: Review, previous: float | None) -> list[str]:
    """What a round should have reached and did not, in words. previous: bits per byte of the stage before."""
    bits, match = found.bits_per_byte, found.exact_match
    failed = []
    if gate.max_bits_per_byte is not None and bits > gate.max_bits_per_byte:
        failed.append(f"{bits:.3f} bits per byte are more than {gate.max_bits_per_byte:g}")
    if gate.min_exact_match is not None and (match or 0.0) < gate.min_exact_match:
        failed.append(f"{match or 0.0:.1%} exact match is less than {gate.min_exact_match:.1%}")
    if gate.better_than_previous and previous is not None and bits >= previous:
        failed.append(f"{bits:.3f} bits per byte are no better than the {previous:.3f} of the stage before")
    return failed


def page(review_: Review, pretrain: Path) -> str:
    """The review as one page of HTML that needs no network and no script."""
    plot = pretrain / PLOT
    picture = base64.b64encode(plot.read_bytes()).decode() if plot.exists() else None
    return rendered(TEMPLATE, {"review": review_, "picture": picture, "tolerance": TOLERANCE, "figure": figure})


def figure(value: float | None) -> str:
    """A number with as many digits as it is worth."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
