"""Public infilling sets as places: HumanEval-Infilling, single-line (Bavarian et al. 2022, arXiv 2207.14255).

Their own measure runs tests on what was written (pass@1). Here a line counts if it is the one that stands there, so nothing
that a model wrote is ever run. A line that does the same in other words does not count: the figures are lower than published
ones.
"""

import gzip
import json
from pathlib import Path

from codelm.errors import UserError
from codelm.evaluation.places import Place


def infilling_places(path: Path) -> list[Place]:
    """The rows of a JSON Lines file with `prompt`, `canonical_solution` (one line) and `suffix`, gzipped if it ends in .gz.

    Raises UserError if it is no such file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        places = [place_of(row["prompt"], row["canonical_solution"], row["suffix"]) for row in rows]
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} cannot be read as an infilling set ({reason})", "give a JSON Lines file, .jsonl or .jsonl.gz"
        ) from None
    if any("\n" in place.rest for place in places):
        raise UserError(f"{path} has solutions of more than one line", "give the single-line set")
    if not places:
        raise UserError(f"{path} holds no row", "give the single-line set")
    return places


def place_of(prompt: str, solution: str, suffix: str) -> Place:
    """A row: the solution's line break belongs to what follows, as it does in an editor."""
    line = solution.removesuffix("\n")
    return Place(prompt, line, solution[len(line) :] + suffix)
