"""A run on the terminal: its curve, its numbers, its evaluations and checkpoints, from the files that it writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from codelm.run_folder import step_of
from training import metrics
from training.metrics import BITS_PER_BYTE, EXACT_MATCH
from training.watch_plot import smoothed
from training.watch_runs import Run, followed, read_run

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each of the 4 × 2 dots of a braille character."""
BRAILLE = 0x2800
NARROWEST = 24
"""Columns below which there is no curve."""
WIDEST = 120
LABEL = 7
"""Columns left of the curve."""
TALLEST = 10
"""Lines of the curve."""
BESIDES = 9
"""Lines of a terminal that the curve leaves to the rest."""
MOST_POINTS = 2_000
"""Of the curve: drawing it shall not cost the training."""
EVALUATIONS = 4
"""The newest that are shown."""
HIGHEST = 0.15
"""The share of points that may lie above the curve's window: a loss begins far above where it ends."""


def braille(points: Sequence[tuple[float, float]], width: int, height: int) -> tuple[list[str], float, float]:
    """A curve in braille characters: `height` lines of `width`, and the values at its lower and upper edge.

    points: x, y with ascending x. Each column of dots shows the mean of its points; what lies above the upper edge is drawn
    there.
    """
    first, last = points[0][0], points[-1][0]
    columns: dict[int, list[float]] = {}
    for x, y in points:
        if y == y:  # not a number has no place
            place = int((x - first) / ((last - first) or 1) * (2 * width - 1))
            columns.setdefault(place, []).append(y)
    means = {place: sum(values) / len(values) for place, values in columns.items()} or {0: 0.0}
    ordered = sorted(means.values())
    low, high = ordered[0], ordered[max(0, int(len(ordered) * (1 - HIGHEST)) - 1)]
    heights = np.interp(range(2 * width), sorted(means), [means[place] for place in sorted(means)])
    shares = ((heights - low) / ((high - low) or 1)).clip(0, 1)
    levels = np.rint((4 * height - 1) * (1 - shares)).astype(int).tolist()
    rows = [[0] * width for _ in range(height)]
    for place, (before, level) in enumerate(zip([levels[0], *levels], levels, strict=False)):
        for dot in range(min(level, before), max(level, before) + 1):  # a steep curve is one line, too
            rows[dot // 4][place // 2] |= DOTS[dot % 4][place % 2]
    return ["".join(chr(BRAILLE + bits) for bits in row) for row in rows], low, high


class RunView:
    """Shows a training's folder as it is when it is drawn; as much of it as the terminal has room for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tail = metrics.Tail(folder)
        self._run: Run | None = None
        self._changed = 0
        self._drawn: tuple[tuple[int, int], list[Text]] | None = None

    def run(self) -> Run | None:
        """What the folder holds now; None before the run has logged something."""
        changed = changed_at(self.folder)  # by checkpoints and the manifest, which come without a row
        if self._tail.follow() or changed != self._changed:
            self._changed = changed
            rows, known = self._tail.rows, self._run
            if known is None or len(rows) < len(known.rows):
                known = read_run(self.folder)
            self._run, self._drawn = followed(known, rows) if rows else None, None
        return self._run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run = self.run()
        if run is None:
            return
        size = min(options.max_width, WIDEST), console.size.height
        if self._drawn is None or self._drawn[0] != size:
            self._drawn = size, list(lines(run, *size))
        yield from self._drawn[1]


def changed_at(folder: Path) -> int:
    """When something came into a folder or went, in nanoseconds since 1970; 0 if it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def lines(run: Run, width: int, height: int) -> Iterable[Text]:
    """The view, line by line; none is wider than `width`."""
    some = run.rows[:: max(1, len(run.rows) // MOST_POINTS)]
    rows = [row for row in some if "loss" in row and "tokens" in row]
    losses = list(zip([row["tokens"] for row in rows], smoothed([row["loss"] for row in rows]), strict=True))
    tall = min(TALLEST, height - BESIDES - min(EVALUATIONS, len(run.evaluations)))
    if len(losses) > 1 and width >= NARROWEST and tall >= 2:
        yield from curve(losses, width, tall)
    yield from packed(numbers(run), width)
    yield from packed(machine(run), width, "dim")
    best = run.best.get("step")
    for row in run.evaluations[-EVALUATIONS:]:
        yield fitting(evaluation(row, row["step"] == best), width, "green" if row["step"] == best else "")
    if run.checkpoints:
        yield fitting(f"checkpoints {', '.join(f'{step_of(path):,}' for path in reversed(run.checkpoints))}", width, "dim")


def curve(losses: Sequence[tuple[float, float]], width: int, height: int) -> Iterable[Text]:
    """The training loss over the tokens."""
    drawn, low, high = braille(losses, width - LABEL, height)
    for number, line in enumerate(drawn):
        label = f"{high:.3f}" if number == 0 else f"{low:.3f}" if number == height - 1 else ""
        yield Text.assemble((f"{label:>{LABEL - 1}} ", "dim"), (line, "cyan"))
    left, right = "loss, smoothed, over tokens", metric(losses[-1][0])
    yield fitting(" " * LABEL + left + right.rjust(max(1, width - LABEL - len(left))), width, "dim")


def numbers(run: Run) -> list[str]:
    """What the run has learned."""
    planned = run.budget.get("steps")
    told = [f"step {run.steps:,}" + (f"/{planned:,}" if planned else "")]
    for key, name in (
        ("loss", "loss"),
        ("loss_code", "code"),
        ("loss_prose", "prose"),
        ("loss_middle", "middles"),
        ("bits_per_byte", "bits/byte"),
    ):
        if (value := metrics.last(run.rows, key)) is not None:
            told.append(f"{name} {value:.3f}")
    return told


def machine(run: Run) -> list[str]:
    """What it takes."""
    told = [f"{duration(run.seconds)} done"] if run.seconds else []
    if run.state == "running" and run.seconds_left is not None:
        told.append(f"{duration(run.seconds_left)} left")
    if (speed := run.tokens_per_second) is not None:
        told.append(f"{speed:,.0f} tokens/s")
    row: dict[str, Any] = next((row for row in reversed(run.rows) if "loss" in row), {})
    for key, text in (
        ("mfu", "MFU {:.0%}"),
        ("overhead_share", "overhead {:.1%}"),
        ("learning_rate", "lr {:.2g}"),
        ("gradient_norm", "gradient {:.2f}"),
    ):
        if key in row:
            told.append(text.format(row[key]))
    if "memory_bytes" in row:
        told.append(f"{row['memory_bytes'] / 1e9:.1f} GB")
    return told


def evaluation(row: dict[str, Any], best: bool) -> str:
    """One evaluation on held-out files."""
    match = f", {row[EXACT_MATCH]:.1%} exact" if row.get(EXACT_MATCH) is not None else ""
    return f"held out at {row['step']:,}: {row[BITS_PER_BYTE]:.3f} bits/byte{match}{', the best' if best else ''}"


def packed(facts: Iterable[str], width: int, style: str = "") -> Iterable[Text]:
    """Facts side by side, on as many lines as they need."""
    line = ""
    for fact in facts:
        if line and len(line) + 2 + len(fact) > width:
            yield fitting(line, width, style)
            line = ""
        line = f"{line}  {fact}" if line else fact
    if line:
        yield fitting(line, width, style)


def fitting(text: str, width: int, style: str = "") -> Text:
    """A line that is not wrapped."""
    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def metric(tokens: float) -> str:
    """A number of tokens in few characters."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def duration(seconds: float) -> str:
    """A time in few characters."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
