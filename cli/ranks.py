"""Several processes that train together: the same command, started again once for each of them.

torch's own launcher starts and watches them. They find the packages where this process has found them, whatever folders the
user's directory holds.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from codelm.errors import UserError

SECONDS_TO_SAVE = 600
"""How long Ctrl-C waits for the step and its checkpoint before the processes are killed."""


def leads() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return os.environ.get("RANK", "0") == "0"


def launched_for(count: int) -> bool:
    """Runs this command in `count` processes and tells that it has; False if this process is to do the work itself.

    Raises UserError if they cannot be started or if one of them raised it; typer.Exit if they ended otherwise than well.
    """
    if count == 1 or "LOCAL_RANK" in os.environ:
        return False
    import torch

    from training.engine.ranks import LAUNCHED

    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise UserError(
            f"--ranks {count}: this machine has {torch.cuda.device_count()} GPUs", "give as many ranks, or start torchrun"
        )
    os.environ |= {LAUNCHED: str(os.getpid()), "PYTHONSAFEPATH": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    launch(count)
    return True


def launch(count: int) -> None:
    """Starts the processes and waits for them. Raises as `launched_for` does."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # what the launcher has to say of an error is said in one line below
    with tempfile.TemporaryDirectory(prefix="codelm-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="codelm",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "cli.main", *sys.argv[1:])
        except SignalException:
            raise typer.Exit(130) from None
        except ChildFailedError as error:
            tell(error.failures)


def tell(failures: Mapping[int, Any]) -> None:
    """Raises what the processes ended of; of several errors the one that came first, for the others come of it.

    failures: rank → torch's `ProcessFailure`.
    """
    if any(failure.exitcode == 130 for failure in failures.values()):
        raise typer.Exit(130)
    recorded = sorted(
        (failure for failure in failures.values() if Path(failure.error_file).is_file()),
        key=lambda failure: Path(failure.error_file).stat().st_mtime_ns,
    )
    for failure in recorded:
        kind, _, text = failure.error_file_data["message"]["message"].partition(": ")
        if kind == UserError.__name__:
            message, _, fix = text.rpartition("; ")
            raise UserError(message, fix)
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            raise UserError(
                f"rank {rank} was killed ({signal.Signals(-failure.exitcode).name})",
                "the same command goes on from the last checkpoint; if memory was short, make engine.micro_batch_size smaller",
            )
    for failure in recorded:
        print(failure.error_file_data["message"]["extraInfo"]["py_callstack"], file=sys.stderr)
        raise typer.Exit(1)
    raise typer.Exit(next(iter(failures.values())).exitcode)


def record(error: Exception) -> None:
    """Leaves an error of a process of several where the one that started them finds it."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)
