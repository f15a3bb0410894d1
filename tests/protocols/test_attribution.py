"""`codelm export --attribution`, then `codelm serve --attribution`: a text of the corpus is told, or not answered."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from codelm.attribution.lookup import Index
from codelm.attribution.winnow import RUN
from codelm.corpus.read import read_rows
from codelm.lexemes import lexemes

PATH = "/v1/textDocument/inlineCompletion"


@pytest.fixture(scope="module")
def exported(run: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with the index beside it, by the real command, of the session's run."""
    folder = tmp_path_factory.mktemp("attributed")
    for name in ("corpus", "tokenizer", "tokens", "pretrain", "evaluate"):
        (folder / name).symlink_to(run / name)
    command = [sys.executable, "-m", "cli.main", "export", "--run", str(folder), "--attribution"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert (folder / "export" / "attribution" / "meta.json").is_file()
    return folder / "export" / "tiny-q8_0.gguf"


class Place(NamedTuple):
    """In a file of the training split: all lines up to a function's first ones, and what comes then."""

    path: str
    before: str
    after: str


def places(corpus: Path) -> Iterator[Place]:
    """Functions of twenty lines."""
    for row in read_rows(corpus, "train"):
        lines = row["content"].splitlines(keepends=True)
        for at, line in enumerate(lines[:-40]):
            if line.startswith("    def ") and all(one.strip() for one in lines[at : at + 20]):
                yield Place(row["path"], "".join(lines[: at + 2]), "".join(lines[at + 2 : at + 40]))


def ask(http: httpx.Client, place: Place, attempt: int) -> dict[str, Any]:
    """What is written where the project has a copy of that file of the corpus, which the model goes on with."""
    copied = {"uri": f"file:///w/copied/{place.path}", "text": place.before + place.after}
    body = {
        "textDocument": {"uri": f"file:///w/{attempt}.py", "languageId": "python", "text": place.before},
        "position": {"line": place.before.count("\n"), "character": 0},
        "context": {"triggerKind": 1},
        # a client of its own: what came with other places would be gone on with too
        "codelm": {"client": f"{place.path}:{len(place.before)}", "maxLines": 20, "files": [copied]},
    }
    return dict(http.post(PATH, json=body).raise_for_status().json())


def text_of(answer: dict[str, Any]) -> str:
    return "".join(item["insertText"] for item in answer["items"])


def told(http: httpx.Client, place: Place) -> dict[str, Any] | None:
    """The answer with where it stands. The file that comes along counts soon, not at once."""
    for attempt in range(2):
        answer = ask(http, place, attempt)
        settled(http)
    return answer if answer["codelm"]["attribution"] else None


def settled(http: httpx.Client) -> None:
    """Returns when the files that came along count."""
    before, now = -1, 0
    while now != before:
        time.sleep(0.3)
        before, now = now, http.get("/health").json()["mixture"]["tokens"]


def test_a_text_of_the_corpus_is_told_or_held_back(exported: Path, corpus: Path, serve: Callable[..., httpx.Client]) -> None:
    warns, blocks, off = serve(exported), serve(exported, "--attribution", "block"), serve(exported, "--attribution", "off")
    for http in (warns, blocks):
        while not http.get("/health").json()["attribution"]["ready"]:
            time.sleep(0.1)
    place, warned = next((place, found) for place in islice(places(corpus), 40) if (found := told(warns, place)))
    text, (match, *_) = text_of(warned), warned["codelm"]["attribution"]
    assert len(lexemes(text.encode()).starts) >= RUN
    assert match["lexemes"] >= RUN
    assert {"repo", "path", "license", "start_line", "end_line"} <= set(match["sources"][0])
    index = Index.open(exported.parent / "attribution")
    found = index.matches(text[match["start"] : match["end"]], place.before + text[: match["start"]])
    assert found and found[0].end == match["end"] - match["start"], "the file that was exported says so too"

    held = told(blocks, place)
    assert held
    assert held["codelm"]["attribution"] == warned["codelm"]["attribution"]
    assert text_of(held) == text[: match["start"]].rpartition("\n")[0]
    assert held["codelm"]["shown"] == bool(held["items"])

    for attempt in range(2):
        silent = ask(off, place, attempt)
        settled(off)
    assert text_of(silent) == text
    assert silent["codelm"]["attribution"] == []
    assert [http.get("/health").json()["attribution"]["mode"] for http in (warns, blocks, off)] == ["warn", "block", "off"]
