"""A real llama-server as upstream, as docs/serving.md starts it: CODELM_LLAMA_SERVER names the binary, or it is on the PATH."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.request import CompletionRequest, StopReason
from serving.upstream import Upstream
from serving.vocabulary import open_vocabulary

BINARY = os.environ.get("CODELM_LLAMA_SERVER") or shutil.which("llama-server")
GUIDE = Path(__file__).parents[2] / "docs" / "serving.md"
PATH = "/v1/textDocument/inlineCompletion"
TIE = 0.05
HEADS = (
    "import os\n\n\ndef size(path):\n    return os.path.",
    "class Point:\n    def __init__(self, x, y):\n        self.",
    "for name, value in sorted(items):\n    print(",
    "def read(file):\n    with open(file) as stream:\n        ",
)

pytestmark = pytest.mark.skipif(
    BINARY is None,
    reason="needs a llama-server: CODELM_LLAMA_SERVER, or on the PATH (scripts/build_llama_server.sh builds one)",
)


class Running:
    """A llama-server with the guide's own command line, on a free port."""

    def __init__(self, gguf: Path) -> None:
        (line,) = re.findall(r"^llama-server (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        options = line.replace("nano-q8_0.gguf", str(gguf)).replace("8080", str(self.port)).split()
        self.command = [str(BINARY), *options]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.health() == 200)

    def health(self) -> int:
        assert self.process.poll() is None, f"{self.command} ended"
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code
        except httpx.HTTPError:
            return 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)


def until(condition: Callable[[], object]) -> None:
    """Waits for something that comes soon."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def llama_server(gguf: Path) -> Iterator[Running]:
    running = Running(gguf)
    yield running
    running.end()


def test_it_writes_what_the_model_writes_here(llama_server: Running, gguf: Path) -> None:
    """Token for token, with the same probabilities, but where two tokens are as likely as each other."""
    here = Engine(LlamaCpp(gguf), mixture=False, healing=False, speculation=False)
    there = Upstream(llama_server.url, open_vocabulary(gguf))
    try:
        facts = there.facts()["upstream"]
        assert (facts["api"], facts["state"]) == ("llama-server", "up")
        same = 0
        for head in HEADS:
            asked = CompletionRequest(prefix=head, suffix="\n\n\nprint(1)\n", max_tokens=24, max_lines=4)
            one, other = (engine.submit(asked).future.result(timeout=120) for engine in (here, there))
            assert one.timings.prompt_tokens == other.timings.prompt_tokens, "the very same prompt"
            if one.text == other.text:
                same += 1
                assert one.stop_reason is other.stop_reason
                for a, b in zip(one.logprobs, other.logprobs, strict=False):
                    assert abs(a - b) < TIE
        assert same >= len(HEADS) - 1
        again = there.submit(CompletionRequest(prefix=HEADS[0], suffix="\n", max_tokens=1)).future.result(timeout=120)
        assert again.timings.cached_tokens > 0 or again.stop_reason is StopReason.EOS
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("named", [True, False], ids=["with the model", "without"])
def test_the_guides_example_and_an_outage(gguf: Path, serve: Callable[..., httpx.Client], named: bool) -> None:
    """Both commands of the guide; then llama-server dies, and comes back."""
    running = Running(gguf)
    try:
        http = serve(*[gguf] * named, "--upstream", running.url)

        def ask(number: int) -> httpx.Response:
            text = f"import os\n\n\ndef size_{number}(path):\n    return os.path."
            body = {
                "textDocument": {"uri": f"file:///w/{number}.py", "text": text},
                "position": {"line": 4, "character": 19},
                "context": {"triggerKind": 2},
            }
            return http.post(PATH, json=body)

        answers = [ask(number) for number in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert any(answer.json()["items"] for answer in answers)
        assert all(answer.json()["codelm"]["timings"]["promptTokens"] > 8 for answer in answers)
        upstream = http.get("/health").json()["upstream"]
        assert (upstream["api"], upstream["state"]) == ("llama-server", "up")

        running.end()
        assert {ask(number).status_code for number in range(10, 14)} == {503}
        assert http.get("/health").json()["status"] == "degraded"
        running.start()
        until(lambda: http.get("/health").json()["status"] == "ok")
        assert ask(20).status_code == 200
    finally:
        running.end()
