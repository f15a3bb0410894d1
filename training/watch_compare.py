"""Trainings side by side: a picture of their curves, and a page around it that needs no network and no script."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codelm.errors import UserError
from codelm.page import rendered
from codelm.stage import write_atomically
from training.metrics import BITS_PER_BYTE, EXACT_MATCH
from training.watch_plot import smoothed
from training.watch_runs import Run, differences

TEMPLATE = Path(__file__).with_name("watch_compare.html.j2")
MOST_POINTS = 1_000
"""Of a curve in the page."""
BEGINNING = 0.05
"""The share of a run whose loss may lie above the picture."""
CURVES = (
    ("loss", "training loss, nats per token"),
    (BITS_PER_BYTE, "held-out bits per byte"),
    (EXACT_MATCH, "held-out exact match"),
)
WAYS: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("million tokens", lambda row: row["tokens"] / 1e6 if "tokens" in row else None),
    ("minutes", lambda row: row["seconds"] / 60 if "seconds" in row else None),
)
"""What a curve is drawn over."""
TILES = (
    ("state", "state", "{}"),
    ("steps", "steps", "{:,}"),
    ("tokens", "tokens", "{:,}"),
    ("loss", "loss", "{:.4f}"),
    ("bits_per_byte", "bits per byte", "{:.4f}"),
    ("exact_match", "exact match", "{:.1%}"),
    ("edit_similarity", "edit similarity", "{:.1%}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("seconds", "seconds", "{:,.0f}"),
    ("stopped", "stopped by", "{}"),
)
"""Key of a summary, its title, how it is written."""


def write(page: Path, runs: list[Run]) -> Path:
    """Writes the page, and its picture beside it as PNG, whose path is returned. Raises UserError if they cannot be written."""
    labels = unique([run.name for run in runs], [run.stage for run in runs])
    drawn = picture(runs, labels)
    svg = io.StringIO()
    drawn.savefig(svg, format="svg")
    summaries = [run.summary() for run in runs]
    content = {
        "labels": labels,
        "presets": [str(summary["preset"] or "–") for summary in summaries],
        "figures": [(title, [written(summary[key], form) for summary in summaries]) for key, title, form in TILES],
        "differences": {key: ["–" if value is None else str(value) for value in row] for key, row in differences(runs).items()},
        "problems": [(label, problem) for label, run in zip(labels, runs, strict=True) for problem in run.problems],
        "svg": svg.getvalue()[svg.getvalue().index("<svg") :],
    }
    text = rendered(TEMPLATE, content)
    target = page.with_suffix(".png")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(target, dpi=120)
        write_atomically(page, text)
    except OSError as error:
        raise UserError(f"{page} cannot be written ({error.strerror})", "give another file with --out") from error
    return target


def written(value: Any, form: str) -> str:
    """A figure, or that there is none."""
    return "–" if value is None else form.format(value)


def unique(names: list[str], stages: list[str]) -> list[str]:
    """Names that tell the runs apart: with their stage, and with a number, where that is needed."""
    if len(set(names)) < len(names):
        names = [f"{name}/{stage}" for name, stage in zip(names, stages, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} #{number}" for number, name in enumerate(names, 1)]
    return names


def picture(runs: list[Run], labels: list[str]) -> Figure:
    """Each curve over tokens and over the time that training took."""
    shown = [curve for curve in CURVES if any(curve[0] in row for run in runs for row in run.rows)] or [CURVES[0]]
    figure = Figure(figsize=(12, 3.6 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(WAYS), squeeze=False)
    for (column, title), line in zip(shown, grid, strict=True):
        for (unit, x_of), axes in zip(WAYS, line, strict=True):
            curves = [
                [(x, row[column]) for row in run.rows if row.get(column) is not None and (x := x_of(row)) is not None]
                for run in runs
            ]
            draw(axes, curves, labels, smooth=column == "loss")
            axes.set(xlabel=unit, ylabel=title)
            axes.grid(alpha=0.3)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw(axes: Axes, curves: list[list[tuple[float, float]]], labels: list[str], smooth: bool) -> None:
    """A curve for each run: smoothed over the noise itself, or with a mark at each measurement."""
    settled: list[float] = []
    for number, (points, label) in enumerate(zip(curves, labels, strict=True)):
        color, xs, ys = f"C{number % 10}", [x for x, _ in points], [y for _, y in points]
        if not smooth:
            axes.plot(xs, ys, "o-", color=color, label=label, markersize=4)
            continue
        means = smoothed(ys)
        every = max(1, len(points) // MOST_POINTS)
        axes.plot(xs[::every], ys[::every], color=color, alpha=0.2, linewidth=0.8)
        axes.plot(xs[::every], means[::every], color=color, label=label)
        settled += [y for y in means[int(len(means) * BEGINNING) :] if math.isfinite(y)]
    if settled:
        margin = 0.05 * (max(settled) - min(settled)) or 0.1
        axes.set_ylim(min(settled) - margin, max(settled) + margin)
    axes.set_visible(any(curves))
