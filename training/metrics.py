"""What a training run tells of itself: metrics.jsonl, TensorBoard, and Weights & Biases if asked for."""

import importlib.util
import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from codelm.errors import UserError
from codelm.stage import write_atomically

FILE = "metrics.jsonl"
TIMING = frozenset({"seconds", "tokens_per_second", "mfu", "memory_bytes", "overhead_share", "evaluation_seconds"})
"""What depends on the machine and its mood: all else in a row is the same when a run is killed and resumed."""


BITS_PER_BYTE, EXACT_MATCH, EDIT_SIMILARITY = "valid_bits_per_byte", "valid_exact_match", "valid_edit_similarity"
"""What an evaluation on held-out files adds."""


class Metrics:
    """Appends one JSON object a logged step to metrics.jsonl and tells the same numbers to the others."""

    def __init__(self, folder: Path, step: int, wandb: str | None = None, settings: dict[str, Any] | None = None) -> None:
        """step: the steps done; what an interrupted run logged beyond them is dropped, for it will be logged again.

        wandb: a project of Weights & Biases; without one, nothing leaves this machine. settings: what it shows as the run's.
        Raises UserError if that cannot be logged to.
        """
        self._wandb = _WandbRun(folder, wandb, settings or {}) if wandb else None
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
        if self._wandb:
            self._wandb.log(row)
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._wandb:
            self._wandb.finish(failed=error is not None)


class _WandbRun:
    """A run of Weights & Biases with the same id whenever the folder's run is resumed; WANDB_MODE=offline keeps it there."""

    def __init__(self, folder: Path, project: str, settings: dict[str, Any]) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise UserError("the package wandb is not installed", "`pip install 'codelm[wandb]'`, or train without --wandb")
        # neither asks on the terminal nor tells its makers of errors
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        import wandb

        home = folder / "wandb"
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "id").exists():
            write_atomically(home / "id", secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                dir=folder,
                id=(home / "id").read_text(encoding="utf-8"),
                resume="allow",
                name=folder.resolve().parent.name,
                config=settings,
                # what was asked for is the log of the run: nothing of the machine, the code, the terminal
                settings=wandb.Settings(
                    console="off",
                    host="local",
                    disable_code=True,
                    disable_git=True,
                    x_disable_stats=True,
                    x_disable_meta=True,
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                ),
            )
        except (wandb.Error, OSError, TimeoutError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"Weights & Biases cannot be logged to ({reason})",
                "`wandb login`, or set WANDB_MODE=offline and `wandb sync` the run later, or train without --wandb",
            ) from error
        # its own counter never goes back, which a resumed run does
        self._run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any]) -> None:
        self._run.log(row)

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows logged so far; a last line that a killed process left half-written is no row."""
    try:
        return parse((folder / FILE).read_bytes())
    except FileNotFoundError:
        return []


def parse(data: bytes) -> list[dict[str, Any]]:
    """The rows in whole lines of a log; what follows a broken line is none."""
    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        if not all(isinstance(value, int | float) for value in row.values()):
            break
        rows.append(row)
    return rows


class Tail:
    """A log that grows, read on from where the last reading ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.rows: list[dict[str, Any]] = []
        self._read = (0, 0)  # inode and bytes

    def follow(self) -> bool:
        """Reads what was added; whether the rows are others now. A resumed run has written its log anew: it is read anew."""
        try:
            with self.path.open("rb") as file:
                inode, size = os.fstat(file.fileno()).st_ino, os.fstat(file.fileno()).st_size
                if self._read[0] != inode or size < self._read[1]:
                    self.rows, self._read = [], (inode, 0)
                file.seek(self._read[1])
                added = file.read()
        except OSError:  # not there yet, or thrown away
            gone, self.rows, self._read = bool(self.rows), [], (0, 0)
            return gone
        whole = added[: added.rfind(b"\n") + 1]  # the last line may be half-written yet
        self.rows = self.rows + parse(whole)
        self._read = (inode, self._read[1] + len(whole))
        return bool(whole)


def last(rows: list[dict[str, Any]], name: str) -> Any:
    """The newest value of a column; None if there is none."""
    return next((row[name] for row in reversed(rows) if name in row), None)
