"""The picture of a run."""

from pathlib import Path

import numpy as np

from codelm.run_folder import PLOT
from training import metrics
from training.metrics import BITS_PER_BYTE


def plot(folder: Path) -> None:
    """Draws loss, smoothed too, and held-out bits per byte against tokens into loss.png."""
    from matplotlib.figure import Figure

    rows = metrics.read(folder)
    train = [row for row in rows if "loss" in row]
    valid = [row for row in rows if BITS_PER_BYTE in row]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    tokens = [row["tokens"] / 1e6 for row in train]
    axes.plot(tokens, [row["loss"] for row in train], color="tab:blue", alpha=0.3, label="training loss")
    axes.plot(tokens, smoothed([row["loss"] for row in train]), color="tab:blue", label="smoothed")
    axes.set(xlabel="million tokens", ylabel="nats per token", ylim=(0, None))
    right = axes.twinx()
    right.plot(
        [row["tokens"] / 1e6 for row in valid],
        [row[BITS_PER_BYTE] for row in valid],
        "o-",
        color="tab:orange",
        label="held-out bits per byte",
    )
    right.set(ylabel="bits per byte", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(folder / PLOT, dpi=120)


def smoothed(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, a fortieth of all to each side, fewer at the ends."""
    window = np.ones(2 * (len(values) // 40) + 1)
    if len(values) < len(window):
        return values
    return (np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")).tolist()
