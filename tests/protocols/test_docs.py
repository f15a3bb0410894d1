"""The API page works without a network, and the examples on it work."""

import re
from typing import Any

import httpx


def test_the_page_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").text
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert http.get(link).status_code == 200


def test_every_example_is_answered(http: httpx.Client) -> None:
    schema: dict[str, Any] = http.get("/openapi.json").json()
    posts = {path: operations["post"] for path, operations in schema["paths"].items() if "post" in operations}
    assert set(posts) == {"/v1/textDocument/inlineCompletion", "/v1/completions"}
    for path, operation in posts.items():
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in schema["components"]["schemas"][name]["examples"]:
            assert http.post(path, json=example).status_code == 200
        assert "422" not in operation["responses"]


def test_health(http: httpx.Client) -> None:
    for path in ("/health", "/v1/health"):
        answer = http.get(path).json()
        assert answer["status"] == "ok"
        assert answer["model"] == http.get("/v1/models").json()["data"][0]["id"]
        assert answer["version"]["git_describe"].startswith("v")
