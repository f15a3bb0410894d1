"""The picture of a run."""

from pathlib import Path

from training import metrics
from training.metrics import BITS_PER_BYTE
from training.run_folder import PLOT


def plot(folder: Path) -> None:
    """Draws loss, its running mean and held-out bits per byte against tokens into loss.png."""
    from matplotlib.figure import Figure

    rows = metrics.read(folder)
    train = [row for row in rows if "loss" in row]
    valid = [row for row in rows if BITS_PER_BYTE in row]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    tokens = [row["tokens"] / 1e6 for row in train]
    axes.plot(tokens, [row["loss"] for row in train], color="tab:blue", alpha=0.3, label="training loss")
    axes.plot(tokens, running_mean([row["loss"] for row in train]), color="tab:blue", label="its running mean")
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


def running_mean(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential running mean, corrected for its start."""
    mean, norm, means = 0.0, 0.0, []
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        means.append(mean / norm)
    return means
