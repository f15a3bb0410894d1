"""The API page works without a network, and the examples on it work."""

import re
import time
from collections.abc import Callable
from pathlib import Path
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
    assert {posts.pop(f"/v1/models/{{name}}/{what}")["tags"][0] for what in ("rollback", "unload")} == {"models"}
    told = {"/v1/warm", "/v1/accepted", "/v1/dismissed"}
    assert set(posts) == {"/v1/textDocument/inlineCompletion", *told, "/v1/completions"}
    for path, operation in posts.items():
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in schema["components"]["schemas"][name]["examples"]:
            assert str(http.post(path, json=example).status_code) in operation["responses"]
        assert "422" not in operation["responses"]


def test_health(http: httpx.Client) -> None:
    for path in ("/health", "/v1/health"):
        answer = http.get(path).json()
        assert (answer["status"], answer["problem"]) == ("ok", None)
        assert answer["model"] == http.get("/v1/models").json()["data"][0]["id"]
        assert answer["version"]["git_describe"].startswith("v")
        assert answer["device"] == answer["served"][0]["device"] == answer["models"]["completion"]["local"]["device"]


def test_health_tells_of_the_folders_that_are_indexed(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    text = "def frobnicate(widget):\n    return widget\n" + "# ä\n"
    (tmp_path / "widgets.py").write_text(text, encoding="utf-8")
    document = {"uri": (tmp_path / "main.py").as_uri(), "languageId": "python", "text": "import widgets\n"}
    body = {"textDocument": document, "position": {"line": 1, "character": 0}}
    assert http.post("/v1/textDocument/inlineCompletion", json=body).status_code == 200
    deadline = time.monotonic() + 60
    while True:
        answer = http.get("/health").json()
        found = next(one for one in answer["workspaces"] if one["root"] == str(tmp_path.resolve()))
        if found["ready"] and found["watching"] != "off" and answer["mixture"]["tokens"]:
            break
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    assert (found["files"], found["characters"], found["bytes"]) == (1, len(text), len(text.encode()))
    assert 0 < answer["mixture"]["bytes"] < answer["mixture"]["max_bytes"]


def test_folders_are_not_read_if_they_are_not_to_be(serve: Callable[..., httpx.Client], gguf: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "widgets.py").write_text("def frobnicate(widget):\n    return widget\n", encoding="utf-8")
    document = {"uri": (tmp_path / "main.py").as_uri(), "languageId": "python", "text": "import widgets\n"}
    body = {"textDocument": document, "position": {"line": 1, "character": 0}}
    http = serve(gguf, "--no-workspace", "--sources", "none")
    assert http.post("/v1/textDocument/inlineCompletion", json=body).status_code == 200
    assert http.get("/health").json()["workspaces"] == []
