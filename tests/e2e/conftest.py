"""A model from the real command, for the editors' tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MINUTES = os.environ.get("CODELM_E2E_MINUTES", "2")  # with fewer, a model may have nothing to say


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `codelm quickstart` on the standard library; CODELM_E2E_RUN gives one that is there already."""
    if "CODELM_E2E_RUN" in os.environ:
        return Path(os.environ["CODELM_E2E_RUN"])
    run = tmp_path_factory.mktemp("quickstart")
    command = [Path(sys.executable).with_name("codelm"), "quickstart", "--minutes", MINUTES, "--run", run, "--no-serve"]
    # the other tests keep to one thread; this training has the machine to itself
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(command, check=True, env=environment)
    return run


@pytest.fixture(scope="session")
def quickstart_gguf(quickstart_run: Path) -> Path:
    """Its Q8_0 model."""
    return quickstart_run / "export" / "nano-q8_0.gguf"
