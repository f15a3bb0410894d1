import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

CASES = yaml.safe_load((Path(__file__).parent / "bad_input.yaml").read_text(encoding="utf-8"))
PATHS = {"native": "/v1/textDocument/inlineCompletion", "warm": "/v1/warm", "openai": "/v1/completions"}


def content(case: dict[str, Any]) -> bytes:
    if "bytes" in case:
        return bytes(case["bytes"])
    if "repeat" in case:
        text, times = case["repeat"]
        return (text * times).encode()
    if "body" in case:
        return case["body"].encode()
    line, character = case["position"]
    body = {
        "textDocument": {"uri": "file:///a.py", "text": case["document"]},
        "position": {"line": line, "character": character},
        "context": {"triggerKind": case.get("trigger", 1)},
        "codelm": case.get("codelm", {}),
    }
    return json.dumps(body).encode()


def in_chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


def works(http: httpx.Client) -> bool:
    answer = http.post("/v1/completions", json={"prompt": "x = ", "max_tokens": 1})
    return answer.status_code == 200


def check(response: httpx.Response, status: int, message: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "type"}
    assert error["code"] == status
    assert message in error["message"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_bad_input(http: httpx.Client, case: dict[str, Any]) -> None:
    data = content(case)
    response = http.post(
        PATHS[case.get("route", "native")],
        content=in_chunks(data) if case.get("chunked") else data,
        headers={"Content-Type": "application/json"},
    )
    check(response, case.get("status", 400), case["message"])
    assert works(http)


def test_other_routes_and_methods(http: httpx.Client) -> None:
    check(http.get("/nowhere"), 404, "Not Found")
    check(http.get("/v1/completions"), 405, "Method Not Allowed")


def test_a_body_that_a_web_page_could_send_unasked(http: httpx.Client) -> None:
    """Without a content type for JSON the browser asks nobody before it posts to another origin."""
    response = http.post("/v1/completions", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    check(response, 400, "Content-Type: application/json")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8417", "127.0.0.1.evil.example", "", "[::2]"])
def test_names_of_others_are_refused(http: httpx.Client, host: str) -> None:
    check(http.get("/v1/health", headers={"Host": host}), 403, "this machine only")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]", "[::1]:8417", "127.0.0.2:80"])
def test_names_of_this_machine_are_served(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/health", headers={"Host": host}).status_code == 200


def test_no_other_origin_may_read_the_answers(http: httpx.Client) -> None:
    response = http.get("/v1/health", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http(http: httpx.Client, server_url: str, data: bytes) -> None:
    address = urlsplit(server_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(100)
    assert works(http)
