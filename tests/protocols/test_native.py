from typing import Any

import httpx
import pytest

PATH = "/v1/textDocument/inlineCompletion"
TEXT = "def size(path):\n    return os.path.\n\nx = '😀'; y = 1\n"


def body(text: str = TEXT, line: int = 1, character: int = 19, trigger: int = 1, **codelm: Any) -> dict[str, Any]:
    return {
        "textDocument": {"uri": "file:///w/a%20b.py", "languageId": "python", "version": 3, "text": text},
        "position": {"line": line, "character": character},
        "context": {"triggerKind": trigger},
        "codelm": codelm,
    }


def ask(http: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    response = http.post(PATH, json=request)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_answer_has_the_documented_shape(http: httpx.Client) -> None:
    answer = ask(http, body(budgetMs=10_000, maxLines=8, client="test", files=[{"uri": "file:///b.py", "text": "x"}]))
    assert set(answer) == {"items", "codelm"}
    details = answer["codelm"]
    assert set(details) == {"id", "model", "shown", "hiddenBy", "confidence", "stopReason", "timings", "attribution"}
    assert set(details["timings"]) == {
        *("promptTokens", "cachedTokens", "draftedTokens", "acceptedTokens", "predictedTokens"),
        *("queueMs", "promptMs", "predictMs", "totalMs"),
    }
    assert details["id"].startswith("cmpl-")
    assert details["stopReason"] in {"line", "scope", "eos", "length", "deadline"}
    assert details["attribution"] == []
    assert details["shown"] == bool(answer["items"])
    cursor = {"line": 1, "character": 19}
    for item in answer["items"]:
        assert item.pop("insertText")
        assert item == {
            "range": {"start": cursor, "end": cursor},
            "command": {"title": "accepted", "command": "codelm.accepted", "arguments": [details["id"], 0]},
        }


def test_only_the_document_and_the_position_are_needed(http: httpx.Client) -> None:
    request = {"textDocument": {"uri": "untitled:1", "text": "x = "}, "position": {"line": 0, "character": 4}}
    assert ask(http, request)["codelm"]["model"]


def test_unknown_fields_are_accepted(http: httpx.Client) -> None:
    request = body(novelty=1) | {"workDoneToken": None, "more": {"x": [1]}}
    request["context"]["selectedCompletionInfo"] = {"text": "a"}
    assert ask(http, request)


@pytest.mark.parametrize(("encoding", "character"), [(None, 8), ("utf-16", 8), ("utf-8", 10), ("utf-32", 7)], ids=str)
def test_the_same_place_in_each_encoding(http: httpx.Client, encoding: str | None, character: int) -> None:
    options: dict[str, Any] = {"positionEncoding": encoding} if encoding else {}
    request, plain = body(line=3, character=character, **options), body(line=3, character=8)
    request["textDocument"]["uri"] = f"file:///w/{encoding}.py"  # a document of its own: else the answer is remembered
    plain["textDocument"]["uri"] = f"file:///w/plain-{encoding}.py"
    answer, expected = ask(http, request), ask(http, plain)
    assert [item["insertText"] for item in answer["items"]] == [item["insertText"] for item in expected["items"]]
    assert answer["codelm"]["timings"]["promptTokens"] == expected["codelm"]["timings"]["promptTokens"]


def test_automatic_is_one_line_unless_a_body_is_to_be_filled(http: httpx.Client) -> None:
    text = "import os\n\n\ndef size(path):\n    x = \n"
    lines = [
        "".join(item["insertText"] for item in ask(http, body(text, line, 4, trigger, **options))["items"]).count("\n") + 1
        for line, trigger, options in ((4, 2, {}), (4, 2, {"maxLines": 3}), (4, 1, {}), (3, 2, {}))
    ]
    assert lines[:2] == [1, 1]
    assert lines[2] <= 8
    assert lines[3] <= 4


def test_a_document_with_crlf_reads_the_same_and_gets_crlf(http: httpx.Client) -> None:
    text = "import os\n\n\ndef size(path):\n    "
    on_windows = body(text.replace("\n", "\r\n"), 4, 4)
    on_windows["textDocument"]["uri"] = "file:///w/crlf.py"  # a document of its own: else the answer is remembered
    unix, windows = ask(http, body(text, 4, 4)), ask(http, on_windows)
    assert windows["codelm"]["timings"]["promptTokens"] == unix["codelm"]["timings"]["promptTokens"]
    for item in windows["items"]:
        assert item["insertText"].count("\n") == item["insertText"].count("\r\n")


def test_the_second_keystroke_reads_fewer_than_eight_tokens(http: httpx.Client) -> None:
    head = "".join(f"value_{number} = compute({number})\n" for number in range(200))
    typed, tail = "for value in values:", "\n\nprint(values)\n"
    for length in range(1, len(typed)):
        answer = ask(http, body(head + typed[:length] + tail, 200, length, 2, client="typist"))
        timings = answer["codelm"]["timings"]
        if length > 1:
            assert timings["promptTokens"] - timings["cachedTokens"] < 8


def test_a_newer_request_takes_the_place_of_an_older_one(http: httpx.Client) -> None:
    """Whoever still waits for the older one is told so."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        text = "x = 1\n" * 2000
        requests = [body(text + "y" * number, 2000, number, 1, client="one") for number in range(12)]
        responses = list(pool.map(lambda request: http.post(PATH, json=request), requests))
    assert {response.status_code for response in responses} <= {200, 409}
    assert any(response.status_code == 200 for response in responses)
    for response in responses:
        if response.status_code == 409:
            assert response.json()["error"]["type"] == "superseded_error"


def test_candidates_are_items_of_their_own(http: httpx.Client) -> None:
    one, several = (ask(http, body(candidates=count)) for count in (1, 4))
    assert len(one["items"]) <= 1
    texts = [item["insertText"] for item in several["items"]]
    assert 2 <= len(texts) == len(set(texts)) <= 4
    ids, numbers = zip(*(item["command"]["arguments"] for item in several["items"]), strict=True)
    assert len(set(ids)) == len(ids)
    assert numbers == tuple(range(len(ids)))


def test_reading_ahead_is_answered_at_once_with_nothing(http: httpx.Client) -> None:
    response = http.post("/v1/warm", json=body(client="reader"))
    assert (response.status_code, response.json()) == (202, {})
    assert ask(http, body(client="reader"))["codelm"]["timings"]["promptTokens"]
