"""Which texts their language's parser takes: the table in parse.yaml, and this project's and this Python's own files."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.corpus import Filters
from codelm.corpus import parse
from codelm.corpus.parse import GRAMMARS, grammars, parse_rejection, parsed_steadily, parser_of

CASES = yaml.safe_load((Path(__file__).parent / "parse.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_parse(case: dict[str, Any]) -> None:
    text = case.get("prefix", "") + case["text"] * case.get("repeat", 1) + case.get("ends", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parse_rejection(text, text.encode(), case["language"], Filters())
    assert (found is None) == case["kept"], found
    assert found is None or (found.reason == "syntax" and found.detail)
    assert parse_rejection(text, text.encode(), case["language"], Filters(parse=False)) is None


def test_the_standard_library_is_taken_but_not_its_first_half() -> None:
    files = sorted(Path(os.__file__).parent.glob("[a-m]*.py"))
    cut = 0
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert parse_rejection(text, text.encode(), "Python", Filters()) is None, file
        half = text[: len(text) // 2]
        cut += parse_rejection(half, half.encode(), "Python", Filters()) is not None
    assert cut > 0.5 * len(files)


@settings(max_examples=30)
@given(st.sampled_from(["Python", *GRAMMARS]), st.text(max_size=200))
def test_any_text_is_parsed(language: str, text: str) -> None:
    found = parse_rejection(text, text.encode(), language, Filters())
    assert found is None or found.reason == "syntax"


def test_a_text_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "SECONDS", 0.2)
    text = "<" * 200_000
    found = parse_rejection(text, text.encode(), "Shell", Filters())
    assert found == ("syntax", "not parsed in 0 s")
    after = "echo a\n"
    assert parse_rejection(after, after.encode(), "Shell", Filters()) is None


def test_steps_are_counted_and_not_time() -> None:
    takes = parser_of("C")
    assert takes is not None
    assert parsed_steadily(takes, b"((a)" * 5_000) is None
    after = parsed_steadily(takes, b"int a;\n")
    assert after is not None
    assert not after.root_node.has_error


def test_broken_pieces_of_real_code_take_few_enough_steps() -> None:
    takes = parser_of("Python")
    assert takes is not None
    for file in sorted(Path(os.__file__).parent.glob("a*.py")):
        data = file.read_bytes()
        assert parsed_steadily(takes, data), file
        for begin in range(700, len(data), 40_000):
            assert parsed_steadily(takes, data[begin : begin + 2_000]), (file, begin)


def test_parsers_and_their_versions() -> None:
    found = grammars()
    assert found[0].startswith("python 3.")
    assert [entry for entry in found if entry.startswith("tree-sitter-python")] == []
    assert len(found) == 2 + len({grammar.module for grammar in GRAMMARS.values()})


def test_a_missing_grammar_lets_everything_pass() -> None:
    code = (
        "import sys; sys.modules['tree_sitter_go'] = None\n"
        "from codelm.config.corpus import Filters\n"
        "from codelm.corpus.parse import parse_rejection\n"
        "print(parse_rejection('((((', b'((((', 'Go', Filters()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "None\n"
