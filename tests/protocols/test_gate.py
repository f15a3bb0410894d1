"""A server whose model has a gate: what it holds back, and what it says of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from codelm.export.rewrite import set_text
from serving.gate import Gate

GATE = Gate(
    features=("mean",), mean=(-1.0,), scale=(1.0,), weights=(1.0,), bias=0.0, scores=(0.0,), probabilities=(0.42,),
    thresholds=(0.3, 0.5), precisions=(0.4, 0.6), coverages=(1.0, 0.1),
)  # fmt: skip
"""Of every completion it says 42 %."""
CODE = "import os\n\n\ndef size(path):\n    return os.path."


@pytest.fixture(scope="module")
def http(gguf: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with that gate, which is asked for a precision of 0.5, and with an attribution index."""
    folder = tmp_path_factory.mktemp("gated")
    model = Path(shutil.copy(gguf, folder))
    set_text(model, "codelm.gate", GATE.model_dump_json())
    shutil.copytree(corpus / "attribution", folder / "attribution")
    command = [sys.executable, "-m", "cli.main", "serve", str(model), "--port", "0", "--precision", "0.5"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout
    url = re.search(r"http://\S+", process.stdout.readline())
    assert url
    with httpx.Client(base_url=url[0], timeout=60, trust_env=False) as client:
        yield client
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


def ask(http: httpx.Client, trigger: int, **options: object) -> tuple[bool, int, float]:
    """Shown or not, how many items, and the confidence."""
    body = {
        "textDocument": {"uri": f"file:///w/{trigger}.py", "text": CODE},  # else what was shown once stays shown
        "position": {"line": 4, "character": 19},
        "context": {"triggerKind": trigger},
        "codelm": options,
    }
    answer = http.post("/v1/textDocument/inlineCompletion", json=body).raise_for_status().json()
    assert answer["codelm"]["hiddenBy"] == (None if answer["codelm"]["shown"] else "precision")
    return answer["codelm"]["shown"], len(answer["items"]), answer["codelm"]["confidence"]


def test_what_is_shown(http: httpx.Client) -> None:
    written, items, confidence = ask(http, 1)
    assert (written, items, confidence) == (True, 1, 0.42), "what is asked for is always shown"
    assert ask(http, 2) == (False, 0, 0.42)
    assert ask(http, 2, precision=0.3)[:2] == (True, 1)
    assert ask(http, 2, precision=0.9)[:2] == (False, 0)


@pytest.mark.parametrize("precision", [-0.1, 1.1, "high"])
def test_a_precision_that_is_none(http: httpx.Client, precision: object) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        ask(http, 2, precision=precision)


def test_health_tells_of_gate_and_index(http: httpx.Client) -> None:
    health = http.get("/health").json()
    assert health["gate"] == {"precision": 0.5, "best_precision": 0.6, "reachable": True}
    assert health["attribution"]["mode"] == "warn"
    assert health["attribution"]["index_bytes"] > 1000
    until = time.monotonic() + 60
    while not http.get("/health").json()["attribution"]["ready"]:
        assert time.monotonic() < until
    assert "gate" not in http.get("/v1/models").json()["data"][0]["meta"]["codelm"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--attribution", "maybe"), "none of off, warn, block"),
        (("--sources", "imports,friends"), "'friends' is no source; give some of identifiers, imports"),
        (("--attribution", "block"), "does not exist"),
        (("--upstream", "nowhere"), "is not a URL"),
    ],
)
def test_options_that_cannot_be(gguf: Path, options: tuple[str, str], told: str) -> None:
    command = [sys.executable, "-m", "cli.main", "serve", str(gguf), "--port", "0", *options]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2
    assert told in process.stderr
