"""`codelm models` and the options of `codelm serve` that are about several models."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CODELM = [sys.executable, "-m", "cli.main"]
Marked = Callable[[str, float], Path]


def codelm(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*CODELM, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def url(marked: Marked) -> Iterator[str]:
    """A server with two models."""
    files = [marked("a", 0.42), f"fast={marked('b', 0.17)}"]
    command = [*CODELM, "serve", *map(str, files), "--port", "0", "--threads", "1", "--kv-memory", "8"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("codelm: tiny, fast at http://127.0.0.1:")
    yield re.findall(r"http://\S+", line)[0]
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


def listed(url: str) -> list[dict[str, object]]:
    return list(json.loads(codelm("models", "list", "--json", "--server", url).stdout))


def test_swap_roll_back_and_unload(url: str, marked: Marked) -> None:
    other = marked("other", 0.3)
    before = listed(url)[1]["path"]
    assert codelm("models", "swap", "fast", other, "--server", url).stdout == f"fast is {other}\n"
    assert listed(url)[1]["path"] == str(other)
    assert codelm("models", "rollback", "fast", "--server", url).stdout == f"fast is {before} again\n"
    assert codelm("models", "unload", "fast", "--server", url).stdout == "fast is unloaded\n"
    table = codelm("models", "list", "--server", url).stdout
    assert re.search(rf"fast +unloaded +0 +0 +{before}", table), table


def test_adapters(url: str, adapter: Path, tmp_path: Path) -> None:
    laid = codelm("models", "adapter", tmp_path, adapter, "--server", url).stdout
    assert laid == f"tiny has {adapter} laid over it in {tmp_path}\n"
    assert f"+ {adapter} in {tmp_path}" in codelm("models", "list", "--server", url).stdout
    assert codelm("models", "adapter", tmp_path, "--server", url).stdout == f"tiny has none any more in {tmp_path}\n"
    assert codelm("models", "adapter", tmp_path, "--server", url).stdout == f"no model has an adapter in {tmp_path}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("swap", "fast", "none.gguf"), "none.gguf does not exist; give the path of a .gguf file"),
        (("rollback", "tiny"), "tiny has had no other file; swap it first"),
        (("rollback", "fats"), "no model is named 'fats'; did you mean 'fast'?"),
        (("adapter", "none", "none.gguf"), "none is no folder"),
    ],
)
def test_what_the_server_refuses(url: str, arguments: tuple[str, ...], told: str) -> None:
    process = codelm("models", *arguments, "--server", url)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_without_a_server() -> None:
    process = codelm("models", "list", "--server", "http://127.0.0.1:9")
    assert process.returncode == 2
    assert "does not answer" in process.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--route", "python"), "--route python: half of it is missing"),
        (("--route", "python=other"), "no model is named 'other'"),
        (("--adapter", "a.gguf=none"), "none is no folder"),
        (("--adapter", "a.gguf=."), "a.gguf does not exist"),
        (("--upstream", "http://127.0.0.1:9", "--unload-after", "1"), "--upstream is of one model"),
        (("tiny=none.gguf",), "none.gguf does not exist"),
    ],
)
def test_options_that_cannot_be(gguf: Path, options: tuple[str, ...], told: str) -> None:
    process = codelm("serve", gguf, "--port", "0", *options)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert told in line
