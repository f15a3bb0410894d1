import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest


def start_server(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """A real `codelm serve` with these arguments on a free port, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    assert process.stdout
    line = process.stdout.readline()
    url = re.search(r"http://\S+", line)
    if not url:
        process.kill()
        pytest.fail(f"no URL in {line!r}\n{process.communicate()[1]}")
    return process, url[0]


@pytest.fixture(scope="session")
def server_url(gguf: Path) -> Iterator[str]:
    process, url = start_server(gguf)
    assert process.stderr
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


@pytest.fixture
def http(server_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server_url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def started() -> Iterator[Callable[..., str]]:
    """Starts servers of a test's own, and ends them; their URLs."""
    processes = []

    def started(*arguments: object) -> str:
        process, url = start_server(*arguments)
        assert process.stderr
        threading.Thread(target=process.stderr.read, daemon=True).start()
        processes.append(process)
        return url

    yield started
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.fixture
def serve(started: Callable[..., str]) -> Iterator[Callable[..., httpx.Client]]:
    """Starts servers of a test's own, and ends them; a client for each."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(httpx.Client(base_url=started(*arguments), timeout=120, trust_env=False))
