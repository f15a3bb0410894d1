"""Several models of one server, and changing them while it serves."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

CODE = "import os\n\n\ndef size(path):\n    return os.path."
A, B, C = 0.42, 0.17, 0.31
Start = Callable[..., httpx.Client]


@pytest.fixture
def start(started: Callable[..., str]) -> Iterator[Start]:
    """Starts a server with models and options; a client of it."""
    clients = []

    def start(*arguments: object) -> httpx.Client:
        clients.append(httpx.Client(base_url=started(*arguments), timeout=60, trust_env=False))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


def native(http: httpx.Client, uri: str = "file:///w/a.py", language: str = "python", **codelm: Any) -> dict[str, Any]:
    body = {
        "textDocument": {"uri": uri, "languageId": language, "text": CODE},
        "position": {"line": 4, "character": 19},
        "codelm": codelm,
    }
    return dict(http.post("/v1/textDocument/inlineCompletion", json=body).json())


def served(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/health").json()["served"])


def test_models_by_name_and_language(start: Start, marked: Callable[[str, float], Path]) -> None:
    http = start(marked("a", A), f"fast={marked('b', B)}", "--route", "rust=fast")
    assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["tiny", "fast"]
    assert http.get("/v1/models/fast").json()["id"] == "fast"
    assert http.get("/v1/models/none").status_code == 404
    for options, name, confidence in (
        ({}, "tiny", A),
        ({"language": "rust"}, "fast", B),
        ({"model": "fast"}, "fast", B),
        ({"model": "tiny", "language": "rust"}, "tiny", A),
    ):
        answer = native(http, f"file:///w/{name}-{len(options)}.x", **options)["codelm"]
        assert (answer["model"], round(answer["confidence"], 2)) == (name, confidence)
    unknown = native(http, model="fats")["error"]
    assert (unknown["code"], unknown["message"]) == (404, "no model is named 'fats'; did you mean 'fast'?")

    def openai(model: str, stream: bool = False) -> str:
        answer = http.post("/v1/completions", json={"prompt": CODE, "model": model, "stream": stream}).raise_for_status()
        return answer.text

    assert '"model":"fast"' in openai("fast")
    assert '"model":"fast"' in openai("fast", stream=True)
    assert '"model":"tiny"' in openai("gpt-3.5-turbo-instruct"), "clients must name one"


def test_swap_and_roll_back_while_requests_are_in_flight(
    start: Start, marked: Callable[[str, float], Path], tmp_path: Path
) -> None:
    a, b = marked("a", A), marked("b", B)
    http = start(a, "--parallel", "2")
    stop, answers = threading.Event(), []

    def keep_asking(number: int) -> None:
        with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                answers.append(native(client, f"file:///w/{number}-{len(answers)}.py"))

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    assert http.put("/v1/models/tiny", json={"path": str(b)}).json() == {"models": ["tiny"]}
    assert native(http, "file:///w/b.py")["codelm"]["confidence"] == B
    assert http.post("/v1/models/tiny/rollback").status_code == 200
    assert native(http, "file:///w/c.py")["codelm"]["confidence"] == A
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    assert answers
    assert {round(answer["codelm"]["confidence"], 2) for answer in answers} <= {A, B}, "none was lost"

    half = tmp_path / "half.gguf"
    half.write_bytes(b.read_bytes()[:5000])
    refused = http.put("/v1/models/tiny", json={"path": str(half)})
    assert refused.status_code == 400
    assert "cut short" in refused.json()["error"]["message"]
    health = http.get("/health").json()
    assert (health["status"], health["served"][0]["path"]) == ("ok", str(a))
    assert "cut short" in health["served"][0]["failure"]


def test_one_more_model_unloading_and_loading(start: Start, marked: Callable[[str, float], Path]) -> None:
    http, more = start(marked("a", A)), marked("more", C)
    assert http.put("/v1/models/more", json={"path": str(more), "languages": ["go"]}).status_code == 200
    assert native(http, "file:///w/a.go", "go")["codelm"]["confidence"] == C
    assert http.post("/v1/models/more/unload").status_code == 200
    assert [one["state"] for one in served(http)] == ["loaded", "unloaded"]
    assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["tiny", "more"]
    assert native(http, "file:///w/b.go", "go")["codelm"]["confidence"] == C
    assert [one["state"] for one in served(http)] == ["loaded", "loaded"]
    http.post("/v1/models/more/unload")
    more.unlink()
    answer = http.post("/v1/completions", json={"prompt": CODE, "model": "more"})
    assert answer.status_code == 503
    assert "does not exist" in answer.json()["error"]["message"]
    stream = http.post("/v1/completions", json={"prompt": CODE, "model": "more", "stream": True}).text
    assert '"code": 503' in stream
    assert http.get("/health").json()["status"] == "degraded"


def test_adapters_of_workspaces(start: Start, gguf: Path, adapter: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    http = start(gguf, "--no-mixture", "--adapter", f"{adapter}={ours}")  # the text before may decide more than the weights

    def written(folder: Path, number: int) -> list[str]:
        answer = native(http, (folder / f"{number}.py").as_uri())
        return [item["insertText"] for item in answer["items"]]

    plain, adapted = written(theirs, 1), written(ours, 1)
    assert plain != adapted
    body = {"workspace": str(theirs), "path": str(adapter)}
    assert http.put("/v1/adapters", json=body).json() == {"models": ["tiny"]}
    assert written(theirs, 2) == adapted
    assert [one["workspace"] for one in served(http)[0]["adapters"]] == [str(ours), str(theirs)]
    for folder in (ours, theirs):
        assert http.put("/v1/adapters", json={"workspace": str(folder), "path": None}).json() == {"models": ["tiny"]}
        assert written(folder, 3) == plain
    assert http.put("/v1/adapters", json={"workspace": str(ours), "path": None}).json() == {"models": []}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Origin": "http://example.org"}, "pages of other servers"),
        ({"Origin": "null"}, "pages of other servers"),
        ({"Host": "example.org"}, "this machine only"),
    ],
)
def test_pages_of_others_change_nothing(http: httpx.Client, headers: dict[str, str], told: str) -> None:
    answer = http.post("/v1/models/tiny/unload", headers=headers)
    assert answer.status_code == 403
    assert told in answer.json()["error"]["message"]
    assert served(http)[0]["state"] == "loaded"


def test_a_name_of_this_machine_is_asked_for_on_every_address(start: Start, gguf: Path) -> None:
    """Where a server listens to a network, a web page that goes by a name of its own could else be this machine."""
    http = start(gguf, "--host", "0.0.0.0")
    port = http.base_url.port
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as local:
        same = {"Host": "example.org", "Origin": "http://example.org"}
        assert local.post("/v1/models/tiny/unload", headers=same).status_code == 403
        assert local.post("/v1/models/tiny/unload").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/models/tiny", {"path": "a.gguf"}, 400, "relative path"),
        ("/v1/models/tiny", {"path": "/none.gguf"}, 400, "does not exist"),
        ("/v1/models/tiny", {"path": "/none.gguf", "route": []}, 400, "route: Extra inputs"),
        ("/v1/models/tiny", {"path": "/none.gguf", "languages": ["pyhton"]}, 400, "did you mean 'python'"),
        ("/v1/adapters", {"workspace": "/", "path": "/none.gguf"}, 400, "does not exist"),
        ("/v1/adapters", {"workspace": "/", "path": "/none.gguf", "model": "other"}, 404, "no model is named"),
        ("/v1/adapters", {"workspace": "/none", "path": "/none.gguf"}, 400, "is no folder"),
        ("/v1/adapters", {"workspace": "/"}, 400, "path: Field required"),
    ],
)
def test_what_cannot_be_is_refused(http: httpx.Client, path: str, body: dict[str, Any], status: int, told: str) -> None:
    answer = http.put(path, json=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]
    assert http.post("/v1/models/other/rollback").status_code == 404
    assert http.post("/v1/models/tiny/rollback").status_code == 400
