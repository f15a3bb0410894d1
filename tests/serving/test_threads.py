from itertools import pairwise

import pytest

from serving.threads import LEARNED, OUTLIER, RARELY, RETRY_SECONDS, Threads


class Machine:
    """A clock, and batches that take as long as one says."""

    def __init__(self, most: int = 4) -> None:
        self.now = 0.0
        self.threads = Threads(most, lambda: self.now)

    def batch(self, ms_of_all: float, ms_of_few: float, tokens: int = 1) -> int:
        """How many threads computed it."""
        chosen = self.threads.choose(tokens)
        ms = ms_of_all if chosen == self.threads.all else ms_of_few
        self.now += ms / 1000
        self.threads.note(tokens, chosen, ms)
        return chosen


def test_the_faster_number_is_taken() -> None:
    for ms, faster in (((4, 6), 4), ((9, 6), 2)):
        machine = Machine()
        assert {machine.batch(*ms) for _ in range(2)} == {2, 4}, "both are tried first"
        assert {machine.batch(*ms) for _ in range(50)} == {faster}


def test_each_size_of_batch_has_its_own() -> None:
    machine = Machine()
    for _ in range(5):
        few, many = machine.batch(3, 2, tokens=1), machine.batch(50, 80, tokens=64)
    assert (few, many) == (2, 4)


def test_where_others_take_the_cores_fewer_are_used_until_they_are_gone() -> None:
    machine = Machine()
    for _ in range(10):
        machine.batch(4, 6)
    assert [machine.batch(40, 7) for _ in range(5)] == [4, 2, 2, 2, 2]
    end = machine.now + 3 * RETRY_SECONDS
    while machine.now < end:
        machine.batch(4, 6)
    assert machine.batch(4, 6) == 4


def test_one_hitch_is_forgotten_at_the_next_try() -> None:
    machine = Machine()
    for _ in range(10):
        machine.batch(4, 6)
    assert machine.batch(400, 6) == 4
    assert 4 * (1 + LEARNED * (OUTLIER - 1)) > 6
    assert machine.batch(4, 6) == 2
    machine.now += RETRY_SECONDS
    assert [machine.batch(4, 6) for _ in range(2)] == [4, 4]


def test_what_is_slower_still_is_tried_more_and_more_rarely() -> None:
    machine = Machine()
    tries = []
    while machine.now < 200:
        if machine.batch(50, 7) == 4:
            tries.append(machine.now)
    pauses = [after - before for before, after in pairwise(tries[1:])]
    assert pauses[0] == pytest.approx(2 * RETRY_SECONDS, abs=0.2)
    assert pauses[-1] == pytest.approx(RARELY, abs=0.2)


def test_one_thread_is_one_thread() -> None:
    machine = Machine(1)
    assert {machine.batch(5, 5) for _ in range(300)} == {1}
