"""A server that streams as llama-server does, always the same text, and fails on demand.

POST /mode sets what it does: ok, slow, hang, die, junk, error, refuse, no-model, gone (hang and no-model). GET /seen tells the
bodies it got and how many streams were closed on it.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = ("left", " + ", "ö", "\n", "print(1)", "\n")
SEEN: list[dict[str, Any]] = []
STATE: dict[str, Any] = {"mode": "ok", "closed": 0}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/seen":
            self.answer({"bodies": SEEN, "closed": STATE["closed"]})
        elif STATE["mode"] in ("no-model", "gone"):
            self.answer({"data": []})
        else:
            self.answer({"data": [{"id": "canned", "owned_by": "llamacpp", "meta": {"n_ctx": 512}}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/mode":
            STATE["mode"] = body["mode"]
            self.answer({})
            return
        SEEN.append(body)
        mode = STATE["mode"]
        if mode in ("hang", "gone"):
            time.sleep(60)
        if mode in ("error", "refuse"):
            self.answer({"error": {"message": "canned"}}, 500 if mode == "error" else 400)
            return
        try:
            self.stream(body, mode)
        except OSError:
            STATE["closed"] += 1

    def stream(self, body: dict[str, Any], mode: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, text in enumerate(PIECES[: body["n_predict"]]):
            if number == 1 and mode == "die":
                return
            if number == 1 and mode == "junk":
                self.event("{nonsense")
                return
            if mode == "slow":
                time.sleep(0.3)
            probabilities = [{"id": number, "token": text, "logprob": -0.5, "top_logprobs": []}]
            self.event(
                json.dumps({"content": text, "stop": False, "tokens": [number], "completion_probabilities": probabilities})
            )
        kind = "limit" if body["n_predict"] < len(PIECES) else "eos"
        last = {"content": "", "stop": True, "stop_type": kind, "tokens_evaluated": 9, "timings": {"cache_n": 4}}
        self.event(json.dumps(last))

    def event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
