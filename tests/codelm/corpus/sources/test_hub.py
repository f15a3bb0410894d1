"""Sets of the hub, asked for over HTTP: a small hub of our own answers as the real one does."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("huggingface_hub")

COMMIT = "a" * 40
COPY = "c" * 40
PAIR = {
    "repository_name": "owner/name",
    "func_path_in_repository": "a/b.py",
    "func_name": "f",
    "whole_func_string": "def f():\n    return 1\n",
    "language": "python",
    "func_documentation_string": "Gives one.",
}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as Parquet."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


ROWS = [{"content": f"a = {n}\n", "repo_name": "owner/name", "path": f"{n}.py", "license": "mit"} for n in range(3)]
PUBLIC = {
    "README.md": b"---\nlicense: other\n---\n",
    "dataset_infos.json": b"{}",
    "data/python/one.parquet": parquet(ROWS[:2]),
    "data/js/two.jsonl": json.dumps(ROWS[2]).encode(),
}
SETS: dict[str, dict[str, dict[str, bytes]]] = {
    "owner/public": {COMMIT: PUBLIC},
    "owner/gated": {COMMIT: {"data.parquet": parquet(ROWS)}},
    "owner/script": {COMMIT: {"script.py": b"", "data/python.zip": b""}, COPY: {"default/0.parquet": parquet([PAIR])}},
    "owner/pictures": {COMMIT: {"cat.png": b"x"}},
    "owner/numbers": {COMMIT: {"data.parquet": parquet([{"number": 1}])}},
}


class Hub(BaseHTTPRequestHandler):
    """https://huggingface.co/docs/hub/api, as much of it as the library asks for."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        found = re.fullmatch(
            r"/(?:api/)?datasets/([\w-]+/[\w-]+)(?:/(revision|tree|resolve)/(refs%2Fconvert%2Fparquet|\w+)(?:/(.+))?)?", path
        )
        if not found:
            return self.answer(404, b"")
        name, what, revision, file = found.groups()
        if name == "owner/down":
            return self.answer(500, b"")
        if name == "owner/private":
            return self.answer(401, b'{"error": "Invalid username or password."}')
        if name == "owner/forbidden":
            return self.answer(403, b"{}")
        if name not in SETS:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        commits = SETS[name]
        commit = {None: COMMIT, "main": COMMIT, "refs%2Fconvert%2Fparquet": COPY}.get(revision, revision)
        if commit not in commits:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if what in (None, "revision"):
            info = {"id": name, "sha": commit, "private": False, "downloads": 0, "likes": 0, "tags": [], "siblings": []}
            return self.answer(200, json.dumps(info).encode())
        if what == "tree":
            return self.answer(200, json.dumps([entry(path, data) for path, data in commits[commit].items()]).encode())
        if name == "owner/gated":
            return self.answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
        data = commits[commit][file]
        return self.answer(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit})

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends an answer."""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file in the listing of a tree: small ones are in git, others in its large file storage."""
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith(".parquet"):
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return row


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a hub."""
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


class Machine:
    """A machine with a cache of its own; each call is a process, for the library reads its settings once."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home = home
        own = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
        self.env = own | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with these arguments."""
        return subprocess.run(
            [sys.executable, *arguments], env=self.env | env, cwd=self.home.parent, capture_output=True, text=True, check=False
        )

    def read(self, *given: str, **env: str) -> list[dict[str, Any]]:
        """Opens sources and reads them whole: `fingerprint` and `rows` of each, or `error`."""
        program = """
import json, sys
from pathlib import Path
from codelm.corpus.sources.open import open_sources
from codelm.errors import UserError
def read(given):
    try:
        (source,) = open_sources([given], Path("run"))
        entries = [entry for piece in source.pieces(1 << 20) for entry in piece.entries()]
    except UserError as error:
        return {"error": str(error)}
    rows = [[e.origin.repo, e.path, e.license, e.blob.read().decode(), e.stamp] for e in entries]
    return {"fingerprint": source.fingerprint, "rows": rows}
print(json.dumps([read(given) for given in sys.argv[1:]]))
"""
        done = self.run("-c", program, *given, **env)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def download(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`codelm corpus download`."""
        return self.run("-m", "cli.main", "corpus", "download", *arguments, PYTHONPATH=str(Path(__file__).parents[4]), **env)


@pytest.fixture
def machine(tmp_path: Path, hub: tuple[str, list[str]]) -> Machine:
    """A machine that reaches the hub."""
    return Machine(tmp_path / "home", hub[0])


@pytest.fixture
def island(tmp_path: Path) -> Machine:
    """A machine with the same cache that reaches nothing."""
    return Machine(tmp_path / "home", "http://127.0.0.1:9")


def test_a_set_is_read_at_its_newest_commit(machine: Machine) -> None:
    newest, pinned, branch = machine.read("hf:owner/public", f"hf:owner/public@{COMMIT}", "hf:owner/public@main")
    assert [row[:4] for row in newest["rows"]] == [
        ["owner/name", "2.py", "MIT", "a = 2\n"],
        ["owner/name", "0.py", "MIT", "a = 0\n"],
        ["owner/name", "1.py", "MIT", "a = 1\n"],
    ]
    assert pinned == newest, "the same commit, named or not, is the same source"
    assert branch == newest


def test_a_folder_of_a_set(machine: Machine) -> None:
    python, c = machine.read("hf:owner/public/data/python", "hf:owner/public/data/c")
    assert [row[1] for row in python["rows"]] == ["0.py", "1.py"]
    assert "no Parquet or JSON Lines files below data/c/" in c["error"]


def test_a_pinned_set_that_is_here_needs_no_network(machine: Machine, island: Machine, hub: tuple[str, list[str]]) -> None:
    pinned = f"hf:owner/public@{COMMIT}"
    first = machine.read(pinned)
    before = len(hub[1])
    assert machine.read(pinned) == first
    assert len(hub[1]) == before, "nobody was asked"
    here, newest = island.read(pinned, "hf:owner/public")
    assert [here] == first
    assert f"use what is here already: hf:owner/public@{COMMIT}" in newest["error"]
    assert island.read(pinned, HF_HUB_OFFLINE="1") == first


def test_a_set_with_a_loading_script_is_read_from_the_hubs_parquet_copy(machine: Machine) -> None:
    newest, copy, script = machine.read("hf:owner/script", f"hf:owner/script@{COPY}", f"hf:owner/script@{COMMIT}")
    assert [row[:3] for row in newest["rows"]] == [["owner/name", "a/b.py", None]]
    assert copy == newest
    assert "no Parquet or JSON Lines" in script["error"]


def test_what_the_hub_does_not_give(machine: Machine) -> None:
    expected = {
        "owner/gated": "access is restricted; accept the terms at https://huggingface.co/datasets/owner/gated and log in",
        "owner/forbidden": "access is restricted; accept the terms at https://huggingface.co/datasets/owner/forbidden",
        "owner/missing": "no such set, or it is private; check the name at https://huggingface.co/datasets/owner/missing",
        "owner/private": "no such set, or it is private",
        "owner/public@v9": "no such revision 'v9'",
        "owner/pictures": "no Parquet or JSON Lines files",
        "owner/numbers": "no column of code among number",
        "owner/down": "the hub answers 500",
        "no good name": "not a name of a set",
    }
    for message, found in zip(expected.values(), machine.read(*(f"hf:{name}" for name in expected)), strict=True):
        assert message in found["error"]
        assert "\n" not in found["error"]


def test_out_of_reach(island: Machine) -> None:
    for found in island.read("hf:owner/public", f"hf:owner/public@{COMMIT}"):
        assert "the hub is out of reach, no network?" in found["error"]
    (found,) = island.read("hf:owner/public", HF_HUB_OFFLINE="1")
    assert "offline mode is on (HF_HUB_OFFLINE); run `codelm corpus download owner/public`" in found["error"]


def test_download_prints_what_to_build(machine: Machine, island: Machine, tmp_path: Path) -> None:
    done = machine.download("owner/public", "hf:owner/script", "--pairs", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    assert f"codelm corpus build hf:owner/public@{COMMIT} --run DIR" in done.stdout
    assert f"codelm corpus build hf:owner/script@{COPY} --run DIR" in done.stdout
    assert "owner/public: 2 files" in done.stdout
    assert re.search(r"owner/script: 1 files,.*, without a licence column", done.stdout)
    assert "pairs.jsonl: 1 functions with docstrings" in done.stdout
    (pair,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert (pair["docstring"], pair["content"]) == ("Gives one.", PAIR["whole_func_string"])
    (found,) = island.read(f"hf:owner/public@{COMMIT}")
    assert len(found["rows"]) == 3


def test_download_into_a_folder(machine: Machine, island: Machine, tmp_path: Path) -> None:
    done = machine.download("owner/public/data/python", "--revision", COMMIT, "--out", "sets")
    assert done.returncode == 0, done.stderr
    source = f"parquet:{tmp_path}/sets/owner/public"
    assert f"codelm corpus build {source} --run DIR" in done.stdout
    (found,) = island.read(source)
    assert [row[1] for row in found["rows"]] == ["0.py", "1.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["owner/gated"], "accept the terms"),
        (["owner/public", "owner/script", "--revision", COMMIT], "--revision is of one set"),
        (["owner/public", "--pairs", "pairs.jsonl"], "no docstrings in owner/public"),
        (["owner/script", "--pairs", "/proc/no/pairs.jsonl"], "give another file with --pairs"),
    ],
)
def test_download_says_what_is_wrong(machine: Machine, arguments: list[str], message: str) -> None:
    done = machine.download(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
