"""The processes that train together: who this one is, and what all of them hold to be true."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import psutil
import torch
import torch.distributed as dist

from codelm.errors import UserError

T = TypeVar("T")
ENDS_WITH = "CODELM_ENDS_WITH"
"""The environment's name for the process without which a training is to end, at the end of its step: it waits for it."""
LAUNCHED = "CODELM_LAUNCHED"
"""The environment's name for the process that has started this one with others by `--ranks`, and that tells of its errors."""
BACKEND = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


class Ranks:
    """The processes of a run, by the environment that torchrun or `--ranks` gives them; without one, this one alone.

    What they tell each other goes by way of gloo, over the CPU, so that no device has to wait for it.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._parent = int(os.environ.get(LAUNCHED, os.getppid()))
        self._ends_with = int(os.environ.get(ENDS_WITH, "0"))
        if self.count > 1:
            connect()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0

    def orphaned(self) -> bool:
        """Whether the launcher, or the process that waits for all of it, is gone: nobody is left to end this process."""
        launcher_gone = self.count > 1 and os.getppid() != self._parent
        return launcher_gone or (self._ends_with != 0 and not psutil.pid_exists(self._ends_with))

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the leading rank, the only one that does it. A UserError there is raised on every rank."""
        if self.count == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.leads:
            try:
                answer[0] = work()
            except UserError as error:
                answer[1] = (error.message, error.fix)
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if answer[1]:
            raise UserError(*answer[1])
        return answer[0]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank; without one, the ranks wait for each other."""
        if self.count == 1:
            return flags
        said = torch.tensor([*flags, False], dtype=torch.int32)  # without a flag, it still waits for all
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in said.tolist()[:-1])

    def gather(self, value: int) -> list[int]:
        """The value of every rank."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Values summed over all ranks, on the CPU."""
        values = values.detach().cpu()
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values


def connect() -> None:
    """Joins the launcher's process group, if this process has not joined it yet."""
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(BACKEND)


def end(code: int = 0) -> NoReturn:
    """Ends a process of several that has done its work or was asked to end, with an exit code.

    At once, if it has joined the others: ending by itself one is sometimes aborted by torch's threads ("terminate called
    without an active exception"), whether it has left its process group or not, and the launcher takes that for a failure.
    """
    if not dist.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
