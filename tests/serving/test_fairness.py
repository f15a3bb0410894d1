import time

from hypothesis import given
from hypothesis import strategies as st

from serving.fairness import PATIENCE, FairQueue, shares
from serving.job import Job
from serving.request import CompletionRequest


def job(client: str | None, number: int = 0) -> Job:
    return Job(CompletionRequest(prefix=str(number), client=client))


def test_clients_that_have_waited_take_turns() -> None:
    queue = FairQueue(lambda: time.monotonic() + PATIENCE)
    for number in range(20):
        queue.put(job("many", number))
    queue.put(job("one"))
    queue.put(job(None))
    taken = [queue.take() for _ in range(22)]
    assert [one and one.request.client for one in taken[:4]] == ["many", "one", None, "many"]
    assert [one.request.prefix for one in taken if one and one.request.client == "many"] == [str(n) for n in range(20)]
    assert queue.take() is None


def test_who_came_last_comes_first_and_a_client_with_many_is_as_old_as_its_first() -> None:
    queue = FairQueue(lambda: 0.5)
    for number, client in enumerate(("many", "one", "many", "two", "many")):
        one = job(client)
        one.submitted = number / 10
        queue.put(one)
    taken = [queue.take() for _ in range(5)]
    assert [one and one.request.client for one in taken] == ["two", "one", "many", "many", "many"]


def test_what_nobody_waits_for_is_left_out() -> None:
    queue = FairQueue()
    jobs = [job("a", number) for number in range(3)]
    for one in jobs:
        queue.put(one)
    jobs[0].cancel()
    jobs[1].cancel()
    assert queue.take() is jobs[2]
    assert len(queue) == 0


def test_what_nobody_waits_for_can_be_let_go_of() -> None:
    queue = FairQueue()
    jobs = [job(client, number) for client in ("a", "b") for number in range(3)]
    for one in jobs:
        queue.put(one)
    for one in jobs[1:]:
        one.cancel()
    queue.drop_done()
    assert list(queue) == jobs[:1]


@given(st.integers(0, 500), st.dictionaries(st.text(max_size=2), st.integers(0, 300), max_size=6))
def test_shares_are_fair(budget: int, wanted: dict[str, int]) -> None:
    given_ = shares(budget, wanted)
    assert sum(given_.values()) == min(budget, sum(wanted.values()))
    assert all(0 <= given_[who] <= wanted[who] for who in wanted)
    short = [given_[who] for who in wanted if given_[who] < wanted[who]]
    if short:  # who got less than they wanted got as much as anybody, but for rounding
        assert max(given_.values()) <= min(short) + len(wanted)
