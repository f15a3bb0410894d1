"""What a training run tells of itself: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from codelm.stage import write_atomically

FILE = "metrics.jsonl"
TIMING = frozenset({"seconds", "tokens_per_second", "mfu", "memory_bytes", "overhead_share", "evaluation_seconds"})
"""What depends on the machine and its mood: all else in a row is the same when a run is killed and resumed."""


class Metrics:
    """Appends one JSON object a logged step to metrics.jsonl and the same numbers to TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: the steps done; what an interrupted run logged beyond them is dropped, for it will be logged again."""
        from torch.utils.tensorboard import SummaryWriter  # seconds, which those who only read need not wait for

        folder.mkdir(parents=True, exist_ok=True)
        self.kept = [row for row in read(folder) if row["step"] <= step]
        write_atomically(folder / FILE, "".join(json.dumps(row) + "\n" for row in self.kept))
        self._file = (folder / FILE).open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, **values: Any) -> dict[str, Any]:
        """Returns the row. step: the number of steps done."""
        row = {"step": step, **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
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


def last(rows: list[dict[str, Any]], name: str) -> Any:
    """The newest value of a column; None if there is none."""
    return next((row[name] for row in reversed(rows) if name in row), None)
