import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codelm.attribution.lookup import Index
from codelm.corpus.read import read_rows
from codelm.errors import UserError
from serving.answers import Answers
from serving.attribution import FOLDER, AttributionMode, Attributor, folder_of, open_attributor
from serving.request import Completion, CompletionRequest, StopReason, Timings, TriggerKind
from serving.type_through import ShownSuggestions

NEW = " ".join(f"new_{number}" for number in range(20)) + "\n"


@pytest.fixture
def index(corpus: Path) -> Index:
    return Index.open(corpus / "attribution")


@pytest.fixture
def known(corpus: Path) -> tuple[str, str]:
    """Path of a training file, and some of its lines that stand nowhere else."""
    row = next(row for row in read_rows(corpus, "train") if row["path"].endswith("textwrap.py"))
    lines = row["content"].split("\n")
    at = next(number for number, line in enumerate(lines) if "def _split_chunks" in line or "def _wrap_chunks" in line)
    return row["path"], "\n".join(lines[at : at + 40]) + "\n"


def attributed(attributor: Attributor, text: str, prefix: str = "") -> Completion:
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    written = Completion(id="cmpl-1", text=text, stop_reason=StopReason.EOS, logprobs=(), timings=timings)
    request = CompletionRequest(prefix=prefix, trigger=TriggerKind.AUTOMATIC)
    return asyncio.run(Answers(attributor=attributor).finish(request, written))


@pytest.fixture
def warns(index: Index) -> Iterator[Attributor]:
    attributor = Attributor(index, AttributionMode.WARN, seconds=60)
    yield attributor
    attributor.close()


@pytest.fixture
def blocks(index: Index) -> Iterator[Attributor]:
    attributor = Attributor(index, AttributionMode.BLOCK, seconds=60)
    yield attributor
    attributor.close()


def test_a_verbatim_text_is_told_with_its_file(warns: Attributor, known: tuple[str, str]) -> None:
    path, text = known
    completion = attributed(warns, NEW + text)
    assert completion.text == NEW + text
    assert completion.shown
    match = completion.attribution[0]
    assert match["lexemes"] >= 30
    assert match["start"] >= len(NEW)
    assert any(source["path"] == path for source in match["sources"])
    assert {"repo", "license", "start_line", "end_line"} <= set(match["sources"][0])


def test_it_is_cut_before_what_is_blocked(blocks: Attributor, known: tuple[str, str]) -> None:
    completion = attributed(blocks, NEW + known[1])
    assert completion.text == NEW.rstrip("\n")
    assert completion.shown
    assert completion.attribution


def test_nothing_left_is_not_shown(blocks: Attributor, known: tuple[str, str]) -> None:
    completion = attributed(blocks, known[1])
    assert not completion.text
    assert not completion.shown


def test_other_candidates_are_blocked_too(blocks: Attributor, known: tuple[str, str]) -> None:
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    new, verbatim = (
        Completion(id=text[:4], text=text, stop_reason=StopReason.EOS, logprobs=(), timings=timings) for text in (NEW, known[1])
    )
    request = CompletionRequest(prefix="", candidates=2)
    finish = Answers(attributor=blocks).finish
    assert asyncio.run(finish(request, replace(new, alternatives=(verbatim,)))).alternatives == ()
    assert asyncio.run(finish(request, replace(new, alternatives=(replace(new, id="new"),)))).alternatives


def test_what_is_new_or_short_is_as_it_was(blocks: Attributor, known: tuple[str, str]) -> None:
    for text in (NEW * 3, known[1][:40], ""):
        completion = attributed(blocks, text)
        assert (completion.text, completion.attribution, completion.hidden_by) == (text, (), None)


def test_a_lookup_that_takes_too_long(index: Index, known: tuple[str, str]) -> None:
    for mode, shown in ((AttributionMode.WARN, True), (AttributionMode.BLOCK, False)):
        attributor = Attributor(index, mode, seconds=0)
        completion = attributed(attributor, known[1])
        assert (completion.text, completion.shown) == (known[1], shown)
        attributor.close()


def test_the_index_is_read_from_the_start_on_and_no_lookup_waits_for_it(
    index: Index, known: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    read_ahead = index.read_ahead

    def slow_disk(ended: Callable[[], bool]) -> None:
        begun.set()
        assert go_on.wait(60)
        read_ahead(ended)

    monkeypatch.setattr(index, "read_ahead", slow_disk)
    attributor = Attributor(index, AttributionMode.BLOCK, seconds=60)
    assert begun.wait(60)
    assert not attributor.ready
    assert not attributed(attributor, known[1]).shown
    go_on.set()
    attributor._reading.join(60)
    assert attributor.ready
    attributor.close()


def test_where_the_index_is_looked_for(corpus: Path, tmp_path: Path) -> None:
    assert open_attributor(tmp_path, None) is None
    with pytest.raises(UserError, match="does not exist"):
        open_attributor(tmp_path, AttributionMode.BLOCK)
    shutil.copytree(corpus / "attribution", tmp_path / FOLDER)
    assert open_attributor(tmp_path, AttributionMode.OFF) is None
    attributor = open_attributor(tmp_path, None)
    assert attributor
    assert attributor.mode is AttributionMode.WARN
    assert attributor.bytes == sum(path.stat().st_size for path in (tmp_path / FOLDER).iterdir() if path.name != "meta.json")
    attributor.close()
    (tmp_path / FOLDER / "hash.u64").write_bytes(b"")
    with pytest.raises(UserError, match="not as long"):
        open_attributor(tmp_path, None)


def test_what_the_budget_cut_off_is_not_remembered() -> None:
    """A key later there may be more time."""
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    request = CompletionRequest(prefix="x = ", document="a.py")
    for reason, known in ((StopReason.DEADLINE, False), (StopReason.LINE, True)):
        suggestions = ShownSuggestions()
        written = Completion(id="cmpl-1", text="y + ", stop_reason=reason, logprobs=(), timings=timings)
        asyncio.run(Answers(suggestions=suggestions).finish(request, written))
        assert (suggestions.find(request) is not None) == known


def test_nothing_of_the_index_is_read_once_it_is_closed(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may be cut then, and reading what a mapped file no longer holds ends the process."""
    read: list[str] = []
    monkeypatch.setattr(index, "matches", read.append)

    def slow_disk(ended: Callable[[], bool]) -> None:
        while not ended():
            time.sleep(0.01)
        Index.read_ahead(index, ended)

    monkeypatch.setattr(index, "read_ahead", slow_disk)
    attributor = Attributor(index, AttributionMode.WARN)
    attributor.close()
    assert attributor.ready
    assert not read


def test_where_the_index_of_a_model_lies(tmp_path: Path) -> None:
    """Beside a GGUF; of a checkpoint, a training or a run in the run's corpus."""
    checkpoint = tmp_path / "pretrain" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    assert folder_of(checkpoint) == checkpoint.parent, "it has none"
    (tmp_path / "corpus" / FOLDER).mkdir(parents=True)
    for path in (checkpoint, checkpoint.parent, tmp_path):
        assert folder_of(path) == tmp_path / "corpus"
    gguf = tmp_path / "export" / "nano-q8_0.gguf"
    assert folder_of(gguf) == gguf.parent
