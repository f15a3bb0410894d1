"""Many clients at once on different documents: none ever hears of another's."""

import random
import string
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

PATH = "/v1/textDocument/inlineCompletion"
CLIENTS = 16


def words(count: int) -> list[str]:
    """Names that nobody would think of."""
    source = random.Random("words")
    return ["".join(source.choices(string.ascii_lowercase, k=10)) for _ in range(count)]


def document(word: str) -> str:
    """A text that says nothing without its word, and ends where it would be written again."""
    return "".join(
        f"def {word}_{verb}(thing):\n    return {word}.{verb}(thing)\n\n\n" for verb in ("get", "put", "call", "turn")
    )


def ask(http: httpx.Client, number: int, word: str, typed: int, named: bool, files: bool) -> str:
    """What is written at a place where the document's own word comes next."""
    text = document(word) + f"def {word}_find(thing):\n    return {word[:typed]}"
    body: dict[str, Any] = {
        "textDocument": {"uri": f"file:///w{number}/main.py", "languageId": "python", "text": f"{text}\n"},
        "position": {"line": text.count("\n"), "character": len(text.rpartition("\n")[2])},
        "context": {"triggerKind": 2},
        "codelm": {"client": f"client-{number}"} if named else {},
    }
    if files:
        body["codelm"]["files"] = [{"uri": f"file:///w{number}/other.py", "text": document(word)}]
    answer = http.post(PATH, json=body).raise_for_status().json()
    return "".join(item["insertText"] for item in answer["items"])


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("files", [True, False], ids=["files", "alone"])
def test_a_completion_belongs_to_its_document(http: httpx.Client, named: bool, files: bool) -> None:
    names = words(CLIENTS)
    places, texts = [], []
    with ThreadPoolExecutor(CLIENTS) as pool:
        for typed in (0, 2, 4):  # one after the other, for each client's older request would be given up
            now = [(number, word, typed) for number, word in enumerate(names)]
            places += now
            texts += pool.map(lambda place: ask(http, *place, named, files), now)
    own = 0
    for (number, word, typed), text in zip(places, texts, strict=True):
        for other in names:
            if other != word:
                assert other[:6] not in text, f"document {number} got the text of another: {text!r}"
        own += word[typed:] in text
    assert own > len(places) / 2, "else nothing is known of what documents say"


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_what_one_brings_along_is_not_told_to_another(http: httpx.Client, named: bool) -> None:
    """A call that stands in everybody's files, each with a word of their own: who brings no file hears of none."""
    head = f"remember_{'named' if named else 'nobody'}_thing("
    names = words(6)

    def ask(word: str | None) -> str:
        body: dict[str, Any] = {
            "textDocument": {"uri": f"file:///w-{word}/main.py", "languageId": "python", "text": f"x = {head}\n"},
            "position": {"line": 0, "character": 4 + len(head)},
            "context": {"triggerKind": 1},
            "codelm": {"client": f"brings-{word}"} if named else {},
        }
        if word:
            body["codelm"]["files"] = [{"uri": f"file:///w-{word}/other.py", "text": f"y = {head}{word}, {word})\n" * 8}]
        answer = http.post(PATH, json=body).raise_for_status().json()
        http.post("/v1/dismissed", json={"id": answer["codelm"]["id"]}).raise_for_status()
        return "".join(item["insertText"] for item in answer["items"])

    def heard(text: str) -> set[str]:
        return {word for word in names if word[:5] in text}

    for _ in range(100):  # a file that comes along counts soon, not at once
        if all(heard(ask(word)) == {word} for word in names):
            break
    else:
        pytest.fail(f"{[heard(ask(word)) for word in names]} instead of one of {names} each")
    assert not heard(ask(None))


def test_a_line_of_a_megabyte(http: httpx.Client) -> None:
    line = "x" * 2**20
    for body in ({"prompt": line, "max_tokens": 4}, {"prompt": "x = ", "suffix": line, "max_tokens": 4}):
        assert http.post("/v1/completions", json=body).raise_for_status().json()["usage"]["prompt_tokens"] > 8
    body = {
        "textDocument": {"uri": "file:///w/long.py", "text": line + line},
        "position": {"line": 0, "character": 2**20},
        "codelm": {"client": "long"},
    }
    assert http.post(PATH, json=body).raise_for_status().json()["codelm"]["timings"]["promptTokens"] > 8


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_ten_thousand_documents(gguf: Path, serve: Any) -> None:
    """Each is answered, and the server does not grow with their number."""
    http = serve(gguf, "--threads", "1")
    port = http.base_url.port
    (process,) = (
        connection.pid
        for connection in psutil.net_connections("tcp4")
        if connection.laddr.port == port and connection.status == "LISTEN"
    )

    def open_(number: int) -> int:
        body = {
            "textDocument": {"uri": f"file:///w/{number}.py", "text": f"x_{number} = 1\n"},
            "position": {"line": 1, "character": 0},
            "codelm": {"client": "one", "budgetMs": 20},
        }
        return int(http.post(PATH, json=body).status_code)

    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(open_, range(2_000)))
        before = psutil.Process(process).memory_info().rss
        statuses += Counter(pool.map(open_, range(2_000, 10_000)))
    assert statuses == {200: 10_000}
    assert psutil.Process(process).memory_info().rss - before < 50e6
    health = http.get("/health").json()
    assert (health["status"], health["requests"]["completed"], health["requests"]["failed"]) == ("ok", 10_000, 0)
