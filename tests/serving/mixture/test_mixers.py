"""All projects' mixtures share one bound of memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from codelm.tokenizer import FILE, Tokenizer
from serving.mixture import Mixer, Mixers, mixers
from serving.mixture.table import ROW_BYTES
from serving.request import CompletionRequest

ROOM, LEAST = 2_000, 100
"""Tokens."""


@pytest.fixture
def made(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mixers]:
    """Of three projects at most."""
    vocabulary = Tokenizer(tokenizer_dir / FILE)
    monkeypatch.setattr(mixers, "MAX_PROJECTS", 3)
    monkeypatch.setattr(mixers, "LEAST_BYTES", LEAST * ROW_BYTES)
    made = Mixers(
        lambda on_change: Mixer(
            vocabulary.encode, vocabulary.token_bytes.__getitem__, vocabulary.vocab_size, on_change=on_change
        ),
        ROOM * ROW_BYTES,
    )
    yield made
    made.close()


def fill(made: Mixers, project: str, documents: int = 20) -> Mixer:
    """Of 75 tokens each."""
    mixer = made.of(project)
    for number in range(documents):
        mixer.update(f"{number}.py", [number] * 75)
    mixer.wait()
    made.wait()
    return mixer


def test_the_project_that_is_worked_in_takes_what_it_needs_from_the_others(made: Mixers) -> None:
    old = fill(made, "old")
    assert old.tokens == 1_500
    new = fill(made, "new")
    assert new.tokens == 1_500
    assert 500 - 75 < old.tokens <= 500, "what is left"
    assert made.facts() == {
        "projects": 2,
        "tokens": new.tokens + old.tokens,
        "bytes": made.facts()["tokens"] * ROW_BYTES,
        "max_bytes": ROOM * ROW_BYTES,
    }
    made.of("old")
    made.wait()
    assert new.tokens == 1_500, "there is room for both"


def test_a_project_that_is_too_large_leaves_the_others_the_least(made: Mixers) -> None:
    old = fill(made, "old")
    new = fill(made, "new", 100)
    assert ROOM - LEAST - 75 < new.tokens <= ROOM - LEAST
    assert 0 < old.tokens <= LEAST


def test_the_project_that_was_not_asked_about_for_longest_makes_room(made: Mixers) -> None:
    first, second = (fill(made, project, 1) for project in ("first", "second"))
    made.of("third")
    made.of("fourth", kept={"first"})
    assert made.of("first", kept={"first"}) is first
    assert made.facts()["projects"] == 3
    assert made.of("second") is not second


def test_open_files_count_and_the_last_one_stays(made: Mixers) -> None:
    mixer = fill(made, "mine")
    for name in "abc":
        mixer.begin(CompletionRequest(prefix=f"{name} = compute(checksum)\n" * 20, document=name), [0])
    taken = mixer.nbytes - mixer.tokens * ROW_BYTES
    assert taken > 0
    made.of("mine")
    made.wait()
    assert mixer.nbytes <= ROOM * ROW_BYTES
    mixer.limit(1)
    made.wait()
    assert mixer.tokens == 0
    assert 0 < mixer.nbytes < taken
