"""The same build on this machine, on a real local Ray cluster, and through Slurm's commands."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from codelm.config.corpus import CorpusConfig, Execution
from codelm.corpus.build import build
from codelm.corpus.execute import SMALL_BYTES, done, run_tasks
from codelm.errors import UserError
from codelm.stage import Manifest

Tree = Callable[[Path, dict[str, str | bytes]], Path]

# Slurm's commands as a laptop has them not: a job array whose tasks run one after the other, in the background.
SBATCH = """#!/bin/bash
for last; do :; done
script=$(mktemp "$FAKE_SLURM/job.XXXXXX")
cp "$last" "$script"
echo "Submitted batch job 7"
array=$(sed -n 's/^#SBATCH --array=\\([0-9-]*\\).*/\\1/p' "$script")
echo "$@" >> "$FAKE_SLURM/calls"
[[ "$*" == *--dependency* ]] && exit 0  # only gathers statistics
touch "$FAKE_SLURM/running"
(
  export SLURM_NODELIST=localhost RUN_OFFSET=0
  for task in $(seq "${array%-*}" "${array#*-}"); do
    SLURM_ARRAY_TASK_ID=$task bash "$script" >> "$FAKE_SLURM/output" 2>&1
  done
  rm "$FAKE_SLURM/running"
) < /dev/null > /dev/null 2>&1 &
"""
SQUEUE = """#!/bin/bash
test -e "$FAKE_SLURM/running" && echo "7 cpu codelm R" || true
"""
SCONTROL = """#!/bin/bash
echo localhost
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec "$@"
"""


@pytest.fixture
def project(tmp_path: Path, tree: Tree, code: Callable[[str], str]) -> Path:
    """Enough for several pieces: a file of 300 kB each."""
    return tree(
        tmp_path / "project",
        {f"{name}/{name}.py": "".join(code(f"{name}{number}") for number in range(2500)) for name in "abcdefg"},
    )


@pytest.fixture
def by_one_worker(tmp_path: Path, project: Path) -> Manifest:
    """What every other way has to give."""
    return build(tmp_path / "one" / "corpus", config(project, workers=1))


def config(project: Path, **execution: object) -> CorpusConfig:
    """Pieces of a megabyte."""
    return CorpusConfig.model_validate(
        {"sources": [str(project)], "licenses": {"unknown": "keep"}, "execution": {"piece_mb": 1, **execution}}
    )


def test_two_workers(tmp_path: Path, project: Path, by_one_worker: Manifest) -> None:
    found = build(tmp_path / "two" / "corpus", config(project, workers=2))
    assert found.outputs == by_one_worker.outputs
    assert found.counts["snapshot_id"] == by_one_worker.counts["snapshot_id"]


def test_a_ray_cluster_of_two_workers(tmp_path: Path, project: Path, by_one_worker: Manifest) -> None:
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        found = build(tmp_path / "ray" / "corpus", config(project, kind="ray", workers=2))
    finally:
        ray.shutdown()
    assert found.outputs == by_one_worker.outputs
    assert found.counts["snapshot_id"] == by_one_worker.counts["snapshot_id"]


def test_slurm(tmp_path: Path, project: Path, by_one_worker: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": SRUN, "scontrol": SCONTROL}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setenv("PATH", f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    settings = config(project, kind="slurm", slurm={"partition": "short", "time": "00:10:00"})
    found = build(tmp_path / "slurm" / "corpus", settings)
    assert found.outputs == by_one_worker.outputs
    assert len((tmp_path / "calls").read_text().splitlines()) >= 2
    assert list(tmp_path.glob("job.*"))


def test_slurm_where_there_is_none(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch"):
        build(tmp_path / "slurm" / "corpus", config(project, kind="slurm"))


def test_no_folder_of_markers_is_no_task_done(tmp_path: Path) -> None:
    assert done(tmp_path) == []
    assert Execution().kind == "local"


class Refuse(PipelineStep):  # type: ignore[misc]
    """A step that a user's mistake stops."""

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        raise UserError("a set is broken", "mend it")
        yield


def test_what_a_worker_says_reaches_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a set is broken; mend it"):
        run_tasks(Refuse(), [SMALL_BYTES, SMALL_BYTES], tmp_path, Execution(workers=2))
