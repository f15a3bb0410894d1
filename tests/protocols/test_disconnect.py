"""A client that hangs up frees the engine."""

import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

CLIENTS = 20


def requests_so_far(http: httpx.Client) -> dict[str, int]:
    return dict(http.get("/v1/health").json()["requests"])


def send(url: str, number: int, stream: bool) -> socket.socket:
    address = urlsplit(url)
    prompt = f"# {number}\n" + "value = compute(1, 'text')\n" * 300
    body = json.dumps({"prompt": prompt, "max_tokens": 10_000, "temperature": 2.0, "stream": stream}).encode()
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_hanging_up_cancels(http: httpx.Client, server_url: str, stream: bool) -> None:
    before = requests_so_far(http)
    connections = [send(server_url, number, stream) for number in range(CLIENTS)]
    while True:  # some have begun by then, the others wait
        health = http.get("/v1/health").json()
        if health["served"][0]["in_flight"] + health["requests"]["completed"] - before["completed"] == CLIENTS:
            break
        time.sleep(0.001)
    for connection in connections:
        connection.close()
    answer = http.post("/v1/completions", json={"prompt": "x = ", "max_tokens": 1})
    assert answer.status_code == 200
    while True:
        after = requests_so_far(http)
        cancelled = after["cancelled"] - before["cancelled"]
        if cancelled + after["completed"] - before["completed"] == CLIENTS + 1:
            break
        time.sleep(0.05)
    assert cancelled > CLIENTS / 2
