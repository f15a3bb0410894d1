"""A system clock that jumps changes nothing: what is waited for and counted goes by the monotonic clock."""

import ast
from pathlib import Path

import serving

WALL_CLOCKS = {"time", "time_ns", "now", "utcnow", "today"}
TOLD = {"protocols/openai.py": 2, "models/model.py": 1}
"""`created`, which OpenAI's clients are told and nothing is decided by."""


def wall_clocks(path: Path) -> int:
    """How often a file asks what time it is."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return sum(isinstance(call.func, ast.Attribute) and call.func.attr in WALL_CLOCKS for call in calls)


def test_no_wall_clock_decides_anything() -> None:
    folder = Path(serving.__file__).parent
    found = {path.relative_to(folder).as_posix(): count for path in folder.rglob("*.py") if (count := wall_clocks(path))}
    assert found == TOLD
