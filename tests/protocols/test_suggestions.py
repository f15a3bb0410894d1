"""What becomes of a suggestion: typed along, taken, sent away."""

from typing import Any

import httpx

PATH = "/v1/textDocument/inlineCompletion"
BEFORE = "import os\n\n\ndef size(path):\n    return os.pa"


def ask(http: httpx.Client, uri: str, typed: str = "") -> dict[str, Any]:
    text = BEFORE + typed
    request = {
        "textDocument": {"uri": uri, "languageId": "python", "text": text + "\n"},
        "position": {"line": text.count("\n"), "character": len(text.rpartition("\n")[2])},
        "context": {"triggerKind": 2},
        "codelm": {"client": "test"},
    }
    response = http.post(PATH, json=request)
    assert response.status_code == 200, response.text
    return dict(response.json())


def predicted(http: httpx.Client) -> int:
    return int(http.get("/v1/health").json()["requests"]["predictedTokens"])


def test_typing_along_a_suggestion_asks_no_model(http: httpx.Client) -> None:
    uri = "file:///w/along.py"
    first = ask(http, uri)
    text, before = first["items"][0]["insertText"], predicted(http)
    rest = ask(http, uri, text[:2])
    assert rest["items"][0]["insertText"] == text[2:]
    assert rest["codelm"]["id"] == f"{first['codelm']['id']}-2"
    assert rest["codelm"]["timings"]["predictedTokens"] == 0
    assert predicted(http) == before


def test_a_dismissed_suggestion_is_asked_for_anew(http: httpx.Client) -> None:
    uri = "file:///w/away.py"
    first = ask(http, uri)
    assert http.post("/v1/dismissed", json={"id": first["codelm"]["id"]}).status_code == 202
    again = ask(http, uri)
    assert again["codelm"]["id"] != first["codelm"]["id"]
    assert again["codelm"]["timings"]["predictedTokens"] > 0
    assert (again["items"], again["codelm"]["hiddenBy"]) == ([], "dismissed"), "the model writes the same once more"


def test_what_comes_after_an_accepted_suggestion_is_written_ahead(http: httpx.Client) -> None:
    first = ask(http, "file:///w/taken.py")
    before = predicted(http)
    assert http.post("/v1/accepted", json={"id": first["codelm"]["id"]}).status_code == 202
    for _ in range(600):
        if predicted(http) > before:
            break
    assert predicted(http) > before
    assert http.post("/v1/accepted", json={"id": "cmpl-unknown"}).status_code == 202
    assert http.post("/v1/accepted", json={}).status_code == 400
