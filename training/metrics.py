"""What a training run tells of itself: metrics.jsonl, TensorBoard, and a plot."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from codelm.stage import write_atomically

FILE = "metrics.jsonl"
PLOT = "loss.png"


class Metrics:
    """Appends one JSON object a logged step to metrics.jsonl and the same numbers to TensorBoard."""

    def __init__(self, folder: Path, step: int, writes: bool = True) -> None:
        """step: the steps done; what an interrupted run logged beyond them is dropped, for it will be logged again.

        writes: whether this process is the one that does; the others' rows go nowhere.
        """
        self.writes = writes
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read(folder) if row["step"] <= step]
        write_atomically(folder / FILE, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (folder / FILE).open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, **values: Any) -> None:
        """step: the number of steps done."""
        if not self.writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not self.writes:
            return
        self._file.close()
        self._tensorboard.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows logged so far; a last line that a killed process left half-written is no row."""
    rows = []
    if (folder / FILE).exists():
        for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def plot(folder: Path) -> None:
    """Draws loss, its running mean and held-out bits per byte against tokens into loss.png."""
    from matplotlib.figure import Figure

    rows = read(folder)
    train = [row for row in rows if "loss" in row]
    valid = [row for row in rows if "valid_bits_per_byte" in row]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    tokens = [row["tokens"] / 1e6 for row in train]
    axes.plot(tokens, [row["loss"] for row in train], color="tab:blue", alpha=0.3, label="training loss")
    axes.plot(tokens, running_mean([row["loss"] for row in train]), color="tab:blue", label="its running mean")
    axes.set(xlabel="million tokens", ylabel="nats per token", ylim=(0, None))
    right = axes.twinx()
    right.plot(
        [row["tokens"] / 1e6 for row in valid],
        [row["valid_bits_per_byte"] for row in valid],
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
