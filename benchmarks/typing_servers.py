"""The two servers as an editor sees them: a process, one question in each one's own protocol, and what came back.

`codelm serve` speaks the native protocol, llama-server `/infill` as llama.vim asks it. Its other settings are those that
llama.cpp itself recommends for fill-in-the-middle (`--fim-qwen-*-default` in its common/arg.cpp): batches of 1,024 and
`--cache-reuse 256`. A question is given up by closing the connection.
"""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
from typing_models import context_of

from codelm.errors import UserError

START_SECONDS = 300
ANSWER_SECONDS = 60
QUIET_SECONDS = 0.02
QUIET_SHARE = 0.03
"""Of one core, that a server takes at most while it rests."""
LOOK_SECONDS = 0.005
LINES_BEFORE, LINES_AFTER = 256, 64
"""What llama.vim sends of a file."""
CLI = [sys.executable, "-m", "cli.main"]
HEADER_TOKENS = 32
"""More than llama-server puts before the text: names of a repository and a file."""


class Query(NamedTuple):
    """A cursor in a text, and how much to write: `lines` for codelm, `tokens` for llama-server, which has no such rule."""

    path: str
    text: str
    cursor: int
    client: int = 0
    lines: int = 1
    tokens: int = 16


class Answer(NamedTuple):
    """What a server says of a completion. shown: whether there is something to show. server_ms: what it says it took."""

    shown: bool
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int
    server_ms: float
    text: str


class Peer(Protocol):
    """A kind of server."""

    name: str

    def command(self, model: Path, port: int, parallel: int) -> list[str]:
        """What starts it."""
        ...

    def question(self, query: Query) -> tuple[str, dict[str, Any]]:
        """The route and the body."""
        ...

    def answer(self, body: Any) -> Answer:
        """What a body says."""
        ...

    async def generated(self, port: int) -> int | None:
        """Tokens written since it started, for whomever; None if it does not count them."""
        ...


class Codelm:
    """`codelm serve`."""

    name = "codelm"

    def __init__(self, options: Sequence[str] = ()) -> None:
        self.options = options
        self.help = subprocess.run([*CLI, "serve", "--help"], capture_output=True, text=True, check=True).stdout

    def command(self, model: Path, port: int, parallel: int) -> list[str]:
        slots = ["--parallel", str(parallel)] if parallel > 1 and "--parallel" in self.help else []
        return [*CLI, "serve", str(model), "--port", str(port), *slots, *self.options]

    def question(self, query: Query) -> tuple[str, dict[str, Any]]:
        before = query.text[: query.cursor]
        line = before.rpartition("\n")[2]
        return "/v1/textDocument/inlineCompletion", {
            "textDocument": {"uri": f"file:///w/{query.path}", "languageId": "python", "text": query.text},
            "position": {"line": before.count("\n"), "character": len(line.encode("utf-16-le")) // 2},
            "context": {"triggerKind": 2 if query.lines == 1 else 1},
            "codelm": {"client": f"typist-{query.client}", "maxLines": query.lines},
        }

    def answer(self, body: Any) -> Answer:
        timings = body["codelm"]["timings"]
        return Answer(
            shown=bool(body["items"]),
            prompt_tokens=timings["promptTokens"],
            cached_tokens=timings["cachedTokens"],
            predicted_tokens=timings["predictedTokens"],
            server_ms=timings["totalMs"],
            text=body["items"][0]["insertText"] if body["items"] else "",
        )

    async def generated(self, port: int) -> int | None:
        _, body = await request(port, "/v1/health")
        count = json.loads(body)["requests"].get("predictedTokens")
        return None if count is None else int(count)


class LlamaServer:
    """llama-server, at its best for editors: each client has a slot of its own."""

    name = "llama-server"

    def __init__(self, binary: Path, options: Sequence[str] = ()) -> None:
        self.binary, self.options = binary, options

    def command(self, model: Path, port: int, parallel: int) -> list[str]:
        context = context_of(model)
        batch = min(1_024, context - 128 - HEADER_TOKENS)  # the prompt is cut to a batch, and shall leave room to write
        return [
            *(str(self.binary), "--model", str(model), "--port", str(port), "--parallel", str(parallel)),
            *(
                "--ctx-size",
                str(context * parallel),
                "--no-kv-unified",
                "--batch-size",
                str(batch),
                "--ubatch-size",
                str(batch),
            ),
            *("--cache-reuse", "256", "--metrics", "--log-disable", *self.options),
        ]

    def question(self, query: Query) -> tuple[str, dict[str, Any]]:
        *above, line = query.text[: query.cursor].split("\n")
        after = query.text[query.cursor :].split("\n")
        return "/infill", {
            "id_slot": query.client,
            "input_prefix": "".join(f"{one}\n" for one in above[-LINES_BEFORE:]),
            "prompt": line,
            "input_suffix": "\n".join(after[: LINES_AFTER + 1]),
            "n_predict": query.tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": True,
            "stream": False,
        }

    def answer(self, body: Any) -> Answer:
        timings = body["timings"]
        return Answer(
            shown=bool(body["content"].strip()),
            prompt_tokens=timings["prompt_n"] + timings["cache_n"],
            cached_tokens=timings["cache_n"],
            predicted_tokens=timings["predicted_n"],
            server_ms=timings["prompt_ms"] + timings["predicted_ms"],
            text=body["content"],
        )

    async def generated(self, port: int) -> int | None:
        _, body = await request(port, "/metrics")
        found = re.search(r"^llamacpp:tokens_predicted_total (\S+)", body.decode(), re.MULTILINE)
        return int(float(found[1])) if found else None


class Server:
    """A running one. As a context manager it ends with the block."""

    def __init__(self, peer: Peer, model: Path, parallel: int = 1) -> None:
        self.peer = peer
        self.port = free_port()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        command = peer.command(model, self.port, parallel)
        self.process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        try:
            asyncio.run(self._ready())
        except BaseException:
            self.close()
            raise

    async def _ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.log.seek(0)
                said = self.log.read().decode("utf-8", "replace").strip()[-500:]
                raise UserError(f"{self.peer.name} ended at once: {said}", "run it by hand")
            try:
                if (await request(self.port, "/health"))[0] == 200:
                    return
            except (OSError, ValueError):
                pass
            await asyncio.sleep(0.2)
        raise UserError(f"{self.peer.name} did not start within {START_SECONDS} seconds", "use a smaller model")

    async def ask(self, query: Query) -> Answer:
        """Raises OSError or ValueError if there is no answer, or an error for one."""
        path, body = self.peer.question(query)
        return await self.ask_raw(path, json.dumps(body).encode())

    async def ask_raw(self, path: str, body: bytes) -> Answer:
        """The same, of what `question` gave."""
        async with asyncio.timeout(ANSWER_SECONDS):
            status, content = await request(self.port, path, body)
        if status != 200:
            raise ValueError(f"status {status}: {content.decode('utf-8', 'replace')[:200]}")
        return self.peer.answer(json.loads(content))

    async def generated(self) -> int | None:
        """Tokens written since the start."""
        return await self.peer.generated(self.port)

    def memory(self) -> int:
        """Bytes of resident memory."""
        return int(self.process.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Of all its threads, by the scheduler's own clock where there is one: it knows microseconds, others 10 ms."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        try:
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        except OSError:
            times = self.process.cpu_times()
            return float(times.user + times.system)

    async def resting(self, quiet: float = QUIET_SECONDS) -> float:
        """Waits until it has taken nearly no CPU time for so many seconds; when that began, by time.perf_counter()."""
        began, spent = time.perf_counter(), self.cpu_seconds()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, total = time.perf_counter(), self.cpu_seconds()
            if total - spent > QUIET_SHARE * quiet:
                began, spent = now, total
            elif now - began > quiet:
                return began

    def close(self) -> None:
        """Ends it, if it has not ended by itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.terminate()
        try:
            self.process.wait(10)
        except psutil.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


async def request(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body; cancelling it closes the connection. Bare sockets: the client must not be what is measured."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + (body or b""))
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head, _, content = answer.decode("latin-1").partition("\r\n\r\n")
    if not head:
        raise ConnectionError("the connection was closed without an answer")
    return int(head.split(maxsplit=2)[1]), content.encode("latin-1")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
