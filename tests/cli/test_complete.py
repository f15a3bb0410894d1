import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CODELM = [sys.executable, "-m", "cli.main"]
Command = Callable[[Path], list[str]]
CODE = "import os\n\n\ndef größe(path):\n    return os.path.\n"


@pytest.fixture(scope="module")
def url(gguf: Path) -> Iterator[str]:
    process = subprocess.Popen([*CODELM, "serve", str(gguf), "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a:1:b.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def complete(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CODELM, "complete", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def fails(*arguments: object) -> str:
    """The one line that a `codelm complete` says when it ends with exit code 2."""
    process = complete(*arguments)
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_from_a_model_and_from_a_server_it_is_the_same(gguf: Path, url: str, source: Path) -> None:
    place = f"{source}:5:20"
    by_model, by_server = (complete(place, *way, "--json") for way in (("--model", gguf), ("--server", url)))
    answers = [json.loads(process.stdout) for process in (by_model, by_server)]
    texts = [[item["insertText"] for item in answer["items"]] for answer in answers]
    assert texts[0] == texts[1]
    assert answers[0].keys() == answers[1].keys() == {"items", "codelm"}
    for item in answers[0]["items"]:
        assert item["range"]["start"] == {"line": 4, "character": 19}
    plain = complete(place, "--model", gguf)
    assert plain.stdout == "".join(text + "\n" for text in texts[0])
    assert plain.stderr == ""


def test_max_lines(gguf: Path, source: Path) -> None:
    answer = json.loads(complete(f"{source}:4:1", "--model", gguf, "--max-lines", 1, "--json").stdout)
    assert all("\n" not in item["insertText"] for item in answer["items"])


def test_places_that_are_none(gguf: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"a\0b\n")
    (tmp_path / "latin1.py").write_bytes("é".encode("latin-1"))
    cases = {
        f"{source}": "is not FILE:LINE:COL",
        f"{source}:1": "is not FILE:LINE:COL",
        f"{source}:0:1": "lines and columns begin at 1",
        f"{source}:1:0": "lines and columns begin at 1",
        f"{source}:7:1": "has no line 7; give a line from 1 to 6",
        f"{source}:4:18": "has no column 18; give a column from 1 to 17",
        f"{tmp_path / 'none.py'}:1:1": "does not exist",
        f"{tmp_path}:1:1": "cannot be read",
        f"{tmp_path / 'binary'}:1:1": "is not UTF-8 text",
        f"{tmp_path / 'latin1.py'}:1:1": "is not UTF-8 text",
    }
    for place, message in cases.items():
        assert message in fails(place, "--model", gguf)


def test_the_end_of_a_line_and_of_a_file_are_places(gguf: Path, source: Path) -> None:
    for place in (f"{source}:4:17", f"{source}:6:1"):
        assert complete(place, "--model", gguf).returncode == 0


def test_nobody_to_ask(gguf: Path, source: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        free = f"http://127.0.0.1:{closing.getsockname()[1]}"
    assert f"{free} does not answer" in fails(f"{source}:1:1", "--server", free)
    assert "is not a URL" in fails(f"{source}:1:1", "--server", "nonsense")
    assert "give one of them" in fails(f"{source}:1:1", "--server", free, "--model", gguf)
    assert "does not exist" in fails(f"{source}:1:1", "--model", tmp_path / "none.gguf")


@pytest.fixture
def no_server() -> None:
    """Skips where something listens on the default port."""
    try:
        socket.create_server(("127.0.0.1", 8417)).close()
    except OSError:
        pytest.skip("something listens on the default port")


@pytest.mark.usefixtures("no_server")
def test_without_a_model_and_a_server_the_default_model_answers(
    default_bundle: Path, with_default: Command, gguf: Path, source: Path
) -> None:
    place = f"{source}:5:20"
    command = [*with_default(default_bundle), "complete", place, "--json"]
    by_default = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert by_default.returncode == 0, by_default.stderr
    by_name = complete(place, "--model", gguf, "--json")
    texts = [[item["insertText"] for item in json.loads(process.stdout)["items"]] for process in (by_default, by_name)]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("no_server")
def test_without_any_of_them_all_ways_are_named(source: Path, with_default: Command, tmp_path: Path) -> None:
    command = [*with_default(tmp_path / "none"), "complete", f"{source}:1:1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    for told in ("no server runs", "has no default model", "codelm serve MODEL.gguf", "--model MODEL.gguf"):
        assert told in line


@pytest.mark.usefixtures("no_server")
def test_a_running_server_goes_before_the_default_model(
    gguf: Path, source: Path, with_default: Command, tmp_path: Path
) -> None:
    process = subprocess.Popen([*CODELM, "serve", str(gguf), "--threads", "1"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    try:
        assert subprocess.run([*with_default(tmp_path / "none"), "complete", f"{source}:5:20"], timeout=120).returncode == 0
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
