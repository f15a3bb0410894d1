"""A phase of the build as datatrove tasks: on this machine, on a Slurm cluster or on Ray, resumed task by task."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from codelm.config.corpus import Execution
from codelm.errors import UserError
from codelm.progress import Progress, silent

POLL_SECONDS = 0.2
GONE_POLLS = 25
SMALL_BYTES = 2_000_000
"""Done before a second process has started."""


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc, unused-ignore]
    """datatrove's, with a pool that notices when a worker dies, and without the helper process that would outlive a kill."""

    def run(self) -> None:
        """Runs the tasks that are not done, in this process if one worker is asked for."""
        ranks = self.get_incomplete_ranks()
        if self.workers == 1:
            for rank in ranks:
                self._run_for_rank(rank)
            return
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=end_with_parent) as pool:
            running = [pool.submit(self._run_for_rank, rank) for rank in ranks]
            try:
                for task in as_completed(running):
                    task.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise

    def _run_for_rank(self, rank: int, *arguments: Any, **options: Any) -> None:
        logger.disable("datatrove")
        super()._run_for_rank(rank, *arguments, **options)


def end_with_parent() -> None:
    """In a worker: ends it when the build is killed. Else it would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # what it writes is whole or not there

    threading.Thread(target=watch, daemon=True).start()


def run_tasks(step: PipelineStep, sizes: Sequence[int], logs: Path, execution: Execution, progress: Progress = silent) -> None:
    """Runs `step` once for each task that `logs` does not say is done, and returns when all are.

    sizes: bytes of each task's work, for the bar. logs: a folder for this step with these very settings and no other: a
    task that it calls done is not run again (datatrove's markers know no settings).
    """
    if not sizes:
        return
    small = sum(sizes) < SMALL_BYTES and execution.kind == "local"
    workers = 1 if small else min(execution.workers or cores(), len(sizes))
    with quiet_datatrove(), shown(logs, sizes, progress):
        if execution.kind == "local":
            try:
                LocalExecutor([step], tasks=len(sizes), workers=workers, logging_dir=str(logs)).run()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker was killed, most likely for want of memory", "run the same command again with fewer --workers"
                ) from error
        elif execution.kind == "ray":
            run_on_ray(step, len(sizes), workers, logs, execution)
        else:
            run_on_slurm(step, len(sizes), execution.workers or -1, logs, execution)
    if missing := len(sizes) - len(done(logs)):
        raise UserError(f"{missing} of {len(sizes)} tasks did not end", f"see {logs}/logs, then run the same command again")


def run_on_ray(step: PipelineStep, tasks: int, workers: int, logs: Path, execution: Execution) -> None:
    """On a Ray cluster. `logs` and the run folder must be on storage that all its machines share."""
    try:
        import ray
        from datatrove.executor import RayPipelineExecutor
    except ImportError as error:
        raise UserError("execution.kind is ray, but Ray is not installed", "pip install 'codelm[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        local = execution.ray_address == "local"
        try:
            ray.init(
                address="local" if local else execution.ray_address,
                num_cpus=workers if local else None,
                include_dashboard=False if local else None,
                logging_level=logging.WARNING,
            )
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster at {execution.ray_address!r}", 'start one with `ray start --head`, or set ray_address: "local"'
            ) from error
    try:
        RayPipelineExecutor([step], tasks=tasks, workers=workers, logging_dir=str(logs), mem_per_cpu_gb=1).run()
    finally:
        if mine:
            ray.shutdown()


def run_on_slurm(step: PipelineStep, tasks: int, workers: int, logs: Path, execution: Execution) -> None:
    """As a Slurm job array, waited for. `logs` and the run folder must be on storage that all its machines share."""
    from datatrove.executor import SlurmPipelineExecutor

    if shutil.which("sbatch") is None:
        raise UserError("execution.kind is slurm, but there is no sbatch here", "run this on a login node of the cluster")
    settings = execution.slurm
    activate = Path(sys.prefix) / "bin" / "activate"
    job = SlurmPipelineExecutor(
        [step],
        tasks=tasks,
        workers=workers,
        logging_dir=str(logs),
        job_name="codelm-corpus",
        venv_path=str(activate) if activate.exists() else None,
        **settings.model_dump(),
    )
    job.run()
    gone = 0
    # a job that is gone without its work done has failed, as the caller says; but shared storage may show its marks late
    while len(done(logs)) < tasks and gone < GONE_POLLS:
        gone = 0 if job.job_id != -1 and in_queue(str(job.job_id)) else gone + 1
        time.sleep(POLL_SECONDS)


def in_queue(job: str) -> bool:
    """Whether Slurm still has something of a job to run."""
    answer = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, timeout=60, check=False)
    return answer.returncode == 0 and bool(answer.stdout.strip())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def done(logs: Path) -> list[int]:
    """The tasks that have ended well."""
    folder = logs / "completions"
    return sorted(int(path.name) for path in folder.iterdir()) if folder.is_dir() else []


@contextlib.contextmanager
def shown(logs: Path, sizes: Sequence[int], progress: Progress) -> Iterator[None]:
    """Tells how far the tasks are, as they end."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(POLL_SECONDS):
            progress(sum(sizes[rank] for rank in done(logs)), sum(sizes))

    progress(sum(sizes[rank] for rank in done(logs)), sum(sizes))
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def quiet_datatrove() -> Iterator[None]:
    """Keeps datatrove's log off the user's terminal."""
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
