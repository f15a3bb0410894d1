"""A plan as one page of HTML that needs no network and no script."""

from pathlib import Path
from typing import Any

from codelm.corpus.report import size
from codelm.page import rendered
from training.plan.plan import MemoryRow, Plan, StagePlan
from training.plan.text import IMPOSSIBLE, PARTS, UNKNOWN, facts_of, number, review_of, rounds_said, short, stop_of

TEMPLATE = Path(__file__).parent / "page.html.j2"


def page(plan: Plan) -> str:
    """The text of the page."""
    return rendered(TEMPLATE, content(plan))


def content(plan: Plan) -> dict[str, Any]:
    """Everything that the page shows, as texts and shares."""
    longest = max([stage.hours or 0.0 for stage in plan.stages], default=0.0) or 1.0
    hours, kwh, cost = (plan.total(name) for name in ("hours", "kwh", "cost"))
    return {
        "plan": plan,
        "tiles": [
            (f"{len(plan.stages)}", "stage" if len(plan.stages) == 1 else "stages"),
            (number(hours), "hours, each stage once"),
            (number(kwh), "kWh"),
            (number(cost), "dollars"),
        ],
        "rows": [row(stage, longest) for stage in plan.stages],
        "parts": list(PARTS.values()),
        "stages": [details(stage) for stage in plan.stages],
    }


def row(stage: StagePlan, longest: float) -> dict[str, Any]:
    """A stage in the table of all. longest: hours of the longest stage."""
    return {
        "id": stage.id,
        "name": stage.name,
        "before": [
            f"{stage.parameters:,}",
            f"{stage.report_parameters:,}" if stage.report_parameters else UNKNOWN,
            short(stage.tokens),
        ],
        "on": f"{stage.devices} × {stage.device}",
        "speed": short(stage.tokens_per_second),
        "share": (stage.hours or 0.0) / longest,
        "after": [number(stage.hours), number(stage.kwh), number(stage.cost)],
    }


def details(stage: StagePlan) -> dict[str, Any]:
    """A stage by itself."""
    return {
        "plan": stage,
        "facts": facts_of(stage),
        "limit": size(stage.device_memory),
        "memory": [memory(row, stage.device_memory) for row in stage.memory],
        "rounds": rounds_said(stage),
        "review": review_of(stage),
        "stop": stop_of(stage),
        "all_possible": all(row.possible for row in stage.memory),
    }


def memory(row: MemoryRow, limit: int) -> dict[str, Any]:
    """A bar of parts, as shares of the device, or of their sum where that is more."""
    whole = max(limit, row.total)
    name = f"{row.strategy}{', checkpointing' if row.checkpointing else ''}"
    return {
        "name": name if row.possible else f"{name} {IMPOSSIBLE}",
        "shares": [row.parts[part] / whole for part in PARTS],
        "cells": [f"{row.parts[part] / 1e9:.2f}" for part in PARTS],
        "total": f"{row.total / 1e9:.2f}",
        "fits": row.fits,
        "chosen": row.chosen,
    }
