import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cli.serve import sources_of
from codelm.errors import UserError
from serving.workspace.relevance import ALL, Source

CODELM = [sys.executable, "-m", "cli.main"]
Command = Callable[[Path], list[str]]


def fails(*arguments: object) -> str:
    """The one line that a `codelm serve` says when it ends with exit code 2."""
    process = subprocess.run([*CODELM, "serve", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(gguf: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*CODELM, "serve", str(gguf), "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert url, line
    with httpx.Client(trust_env=False, timeout=30) as client:  # its open connection must not keep the server up
        assert client.get(f"{url[0]}/v1/health").json()["status"] == "ok"
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert process.returncode in ((0, 130) if number is signal.SIGINT else (0, -signal.SIGTERM))
    assert (output, errors) == ("", "")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # the model is not even looked for
        assert fails(tmp_path / "none.gguf", "--port", port) == (
            f"error: port {port} on 127.0.0.1 is in use; stop what uses it or give another --port"
        )


def test_a_host_that_is_none(gguf: Path) -> None:
    assert "give an address of this machine as --host" in fails(gguf, "--host", "192.0.2.1", "--port", 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on every port")
def test_a_port_that_needs_rights(gguf: Path) -> None:
    assert "needs more rights" in fails(gguf, "--port", 80)


def test_models_that_are_none(gguf: Path, tmp_path: Path) -> None:
    assert "does not exist" in fails(tmp_path / "none.gguf", "--port", 0)
    (tmp_path / "half.gguf").write_bytes(gguf.read_bytes()[:5000])
    assert "cut short" in fails(tmp_path / "half.gguf", "--port", 0)


def test_an_ipv6_address(gguf: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    process = subprocess.Popen([*CODELM, "serve", str(gguf), "--host", "::1", "--port", "0"], stdout=-1, text=True)
    assert process.stdout
    url = re.search(r"http://\[::1\]:\d+", process.stdout.readline())
    assert url
    assert httpx.get(f"{url[0]}/v1/health", trust_env=False).status_code == 200
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_without_a_model_it_serves_the_default_one(default_bundle: Path, with_default: Command) -> None:
    command = [*with_default(default_bundle), "serve", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("codelm: tiny at http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_a_default_model_that_is_missing_or_damaged(default_bundle: Path, with_default: Command, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(default_bundle, damaged)
    (damaged / "tiny-q8_0.gguf").write_bytes(b"GGUF")
    for bundle, told in ((tmp_path / "none", "this installation of codelm has no default model"), (damaged, "is damaged")):
        command = [*with_default(bundle), "serve", "--port", "0"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert process.returncode == 2
        (line,) = process.stderr.splitlines()
        assert told in line
        assert "name a model of your own" in line


def test_sources_by_name() -> None:
    assert sources_of("all") == ALL
    assert sources_of("none") == frozenset()
    assert sources_of("imports, siblings") == {Source.IMPORTS, Source.SIBLINGS}
    with pytest.raises(UserError, match="'' is no source"):
        sources_of("")
