"""How long a run is: a token budget, or minutes that a short measurement turns into one.

The budget is recorded, so that the schedule stays a function of the step when the run is resumed.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from codelm.errors import UserError
from codelm.run_folder import BUDGET
from codelm.stage import write_atomically

MEASURED_SECONDS = 8.0
DEFAULT_TOKENS_PER_PARAMETER = 20
"""Of a run that is given neither tokens nor minutes (Hoffmann et al. 2022, arXiv 2203.15556)."""


class Budget(BaseModel):
    """The length of a run."""

    steps: int
    tokens: int
    tokens_per_step: int
    seconds_per_step: float | None = None

    @classmethod
    def of_tokens(cls, tokens: int, tokens_per_step: int) -> "Budget":
        """Whole steps of at least `tokens`."""
        steps = math.ceil(tokens / tokens_per_step)
        return cls(steps=steps, tokens=steps * tokens_per_step, tokens_per_step=tokens_per_step)

    @classmethod
    def of_minutes(cls, minutes: float, tokens_per_step: int, seconds_per_step: float) -> "Budget":
        """What fits into the time at the measured speed, at least one step."""
        steps = max(1, int(minutes * 60 / seconds_per_step))
        return cls(
            steps=steps, tokens=steps * tokens_per_step, tokens_per_step=tokens_per_step, seconds_per_step=seconds_per_step
        )

    def write(self, folder: Path) -> None:
        """Records the budget of the run in `folder`."""
        write_atomically(folder / BUDGET, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Budget | None":
        """The recorded budget, if there is one. Raises UserError if it is broken."""
        try:
            return cls.model_validate_json((folder / BUDGET).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{folder / BUDGET} is damaged", "start the run anew with --restart") from error


def measure(step: Callable[[], object], shared: Callable[[Callable[[], float]], float] = lambda seconds: seconds()) -> float:
    """Seconds of one call of `step`: the median of calls that fill a few seconds, after two that warm up and compile.

    shared: one process's answer for all that call this together, so that they make as many steps.
    """
    for _ in range(2):
        step()
    seconds: list[float] = []
    while sum(seconds) < MEASURED_SECONDS and len(seconds) < 50:
        start = time.perf_counter()
        step()
        seconds.append(shared(lambda start=start: time.perf_counter() - start))  # type: ignore[misc]
    return sorted(seconds)[len(seconds) // 2]
