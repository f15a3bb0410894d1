"""Whose turn it is: no client waits for all that another one has asked for."""

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

from serving.job import Job

Who = TypeVar("Who", bound=Hashable)


PATIENCE = 1.0
"""Seconds after which a job is not one that the next key takes the place of."""


class FairQueue:
    """Waiting jobs, first in first out for each client. All without one are one.

    Of the clients the one comes first that waits since the shortest time: where there is more to do than can be done, whoever
    has waited long will have typed on before the answer is there. Those who wait longer than a key takes come in turn before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, as of `Job.submitted`."""
        self._clock = clock
        self._clients: OrderedDict[str | None, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain.from_iterable(list(self._clients.values()))

    def put(self, job: Job) -> None:
        """Appends a job to its client's."""
        self._clients.setdefault(job.request.client, deque()).append(job)

    def take(self) -> Job | None:
        """The next job that somebody waits for; None if there is none."""
        self.drop_done()
        if not self._clients:
            return None
        since = {client: jobs[0].submitted for client, jobs in self._clients.items()}
        now = self._clock()
        client = next((one for one in since if now - since[one] > PATIENCE), max(since, key=since.__getitem__))
        jobs = self._clients.pop(client)
        job = jobs.popleft()
        if jobs:
            self._clients[client] = jobs  # at the end: the others come first
        return job

    def drop_done(self) -> None:
        """Lets go of jobs that nobody waits for any more."""
        for client, jobs in list(self._clients.items()):
            left = deque(job for job in jobs if not job.future.done())
            if left:
                self._clients[client] = left
            else:
                del self._clients[client]


class Clients:
    """Who has asked of late."""

    def __init__(self) -> None:
        self._last: OrderedDict[str | None, float] = OrderedDict()

    def note(self, client: str | None) -> None:
        """A client asks."""
        self._last[client] = time.monotonic()
        self._last.move_to_end(client)

    def several_within(self, seconds: float) -> bool:
        """Whether others than the last one have asked in that time."""
        while len(self._last) > 1 and next(iter(self._last.values())) < time.monotonic() - seconds:
            self._last.popitem(last=False)
        return len(self._last) > 1


def shares(budget: int, wanted: Mapping[Who, int]) -> dict[Who, int]:
    """A budget in equal shares; what somebody does not want of theirs goes to the others, in the order given."""
    given = dict.fromkeys(wanted, 0)
    hungry = [who for who, tokens in wanted.items() if tokens > 0]
    while budget > 0 and hungry:
        share = -(-budget // len(hungry))
        for who in hungry:
            tokens = min(share, wanted[who] - given[who], budget)
            given[who] += tokens
            budget -= tokens
        hungry = [who for who in hungry if given[who] < wanted[who]]
    return given
