"""Traces end in the new text, whatever the edit, and hold what a user's hands do."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_traces import Change, Kind, Trace, folder_changes, git_changes, make_trace, matching_brackets, retyped

OLD = "import os\n\n\ndef one(a):\n    return a\n\n\ndef two(b):\n    return b\n"
NEW = OLD.replace("(a):\n", "(a):\n    if check(a, [1]):\n        return {a: 2}\n").replace("return b", "return b + 1")
PIECES = ["def f(x):\n", "    ", "\t", "\n", "\r\n", "a", "(", ")", "[", "]", "{", "}", "é", "𝒙"]
CODE = st.lists(st.sampled_from(PIECES)).map("".join)


def final_texts(trace: Trace) -> dict[str, str]:
    return trace.texts | {step.path: text for step, text in trace.replay()}


@given(st.lists(st.tuples(CODE, CODE), min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_trace_ends_in_the_new_texts(pairs: list[tuple[str, str]], seed: int) -> None:
    changes = [Change(f"{number}.py", old, new) for number, (old, new) in enumerate(pairs)]
    trace = make_trace(changes, seed)
    assert final_texts(trace) == {change.path: change.new for change in changes}
    assert all(0 <= step.cursor <= len(text) for step, text in trace.replay())
    assert trace == make_trace(changes, seed)


@given(CODE, st.integers(0, 2**32))
def test_blocks_are_typed_anew(text: str, seed: int) -> None:
    change = retyped("a.py", text, seed)
    assert change.new == text
    assert len(change.old) < len(text) or not text


def test_what_hands_do() -> None:
    changes = [Change("a.py", OLD, NEW), Change("b.py", OLD, NEW)]
    steps = make_trace(changes, 1).steps
    assert any(step.kind is Kind.TYPE and step.inserted == "()" for step in steps), "brackets close themselves"
    assert any(step.kind is Kind.TYPE and step.inserted == "" for step in steps), "and are typed over"
    assert any(step.inserted == "\n        " for step in steps), "a new line is indented, one step more in a block"
    assert any(step.kind is Kind.ERASE and step.removed == 8 for step in steps), "and its indentation taken back"
    assert sum(step.kind is Kind.JUMP for step in steps) >= 4
    assert {step.path for step in steps} == {"a.py", "b.py"}
    assert all(len(step.inserted.strip()) <= 2 for step in steps), "keys, not texts"


def test_mistakes_are_taken_back() -> None:
    text = "letters " * 200
    trace = make_trace([Change("a.txt", "", text)], 0)
    assert sum(step.kind is Kind.ERASE for step in trace.steps) > 3
    assert final_texts(trace) == {"a.txt": text}


def test_a_block_is_deleted_at_once() -> None:
    first, *rest = [step for step in make_trace([Change("a.py", NEW, OLD)], 3).steps if step.kind is Kind.ERASE]
    assert first.removed > 8
    assert rest


@pytest.mark.parametrize("seconds", [5.0, 10.0])
def test_keys_come_at_about_the_given_rate(seconds: float) -> None:
    typed = [step.wait for step in make_trace([Change("a.txt", "", "some words to type " * 100)], 0, seconds).steps]
    assert 0.7 < len(typed) / sum(typed) / seconds < 1.4


def test_brackets_that_cross_do_not_close_themselves() -> None:
    assert matching_brackets("f(a[1], {})") == {1: 10, 3: 5, 8: 9}
    assert matching_brackets("(]") == {}
    assert matching_brackets(")(") == {}


def test_changes_of_a_folder(code_dir: Path) -> None:
    changes = folder_changes(code_dir, 0, 3)
    assert len(changes) == 3
    assert changes == folder_changes(code_dir, 0, 3)
    assert changes != folder_changes(code_dir, 1, 3)
    for change in changes[0]:
        assert (code_dir / change.path).read_text(encoding="utf-8") == change.new
        assert len(change.old) < len(change.new)


def test_changes_of_a_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for text in (OLD, NEW, NEW + "\n" * 5, NEW + "x = 1\n" * 1000):
        (tmp_path / "a.py").write_text(text)
        (tmp_path / "notes.txt").write_text(text)
        git("add", ".")
        git("commit", "-q", "-m", "work")
    assert git_changes(tmp_path, 10) == [[Change("a.py", OLD, NEW)]]
    assert git_changes(tmp_path, 0) == []
