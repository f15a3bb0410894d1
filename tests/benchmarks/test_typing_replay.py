"""What is said of requests."""

from typing import Any

from typing_replay import Costs, Outcome, figures
from typing_servers import Answer
from typing_traces import Kind


def answered(number: int, prompt: int, cached: int, predicted: int) -> Outcome:
    return Outcome(number, Kind.TYPE, 1.0, Answer(True, prompt, cached, predicted, 1.0, "x"))


class Server:
    """Has written 10 tokens before, and 30 in the end."""

    written = 10

    def cpu_seconds(self) -> float:
        return 1.0

    async def generated(self) -> int:
        return self.written


def test_answers_from_memory_are_counted_apart() -> None:
    found = figures([answered(0, 100, 90, 4), answered(1, 0, 0, 0), Outcome(2, Kind.TYPE), Outcome(3, Kind.TYPE, error="lost")])
    assert {key: found[key] for key in ("requests", "answered", "from_memory", "superseded", "lost")} == {
        "requests": 4,
        "answered": 2,
        "from_memory": 1,
        "superseded": 1,
        "lost": 1,
    }
    assert (found["prompt_tokens"], found["read_tokens"], found["cached_typing"]) == (100, 10, 0.9)
    assert "cached_typing" not in figures([answered(0, 0, 0, 0)])


def test_tokens_of_several_typists_are_all_counted() -> None:
    """Each numbers their requests from 0."""
    server: Any = Server()
    costs = Costs(server)
    server.written = 30
    found = costs.of([answered(0, 100, 0, 6), answered(0, 100, 0, 8), Outcome(1, Kind.TYPE)])
    assert (found["wasted_tokens"], found["wasted_share"]) == (6, 0.3)
