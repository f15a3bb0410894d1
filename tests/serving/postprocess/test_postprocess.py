from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.lexer import DEPTH, Surroundings
from serving.postprocess import Processed, postprocess, syntax
from serving.postprocess.place import Place
from serving.request import CompletionRequest, StopReason
from serving.stop import StopRules

CURSOR = "¦"
FILES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
CASES = [(file.stem, case) for file in FILES for case in yaml.safe_load(file.read_text(encoding="utf-8"))]
STEP_CASES = [(step, case) for step, case in CASES if step != "pipeline"]


def request_of(case: dict[str, Any]) -> CompletionRequest:
    prefix, suffix = case["at"].split(CURSOR)
    language = case.get("language", "python")
    return CompletionRequest(prefix=prefix, suffix=suffix, language=language, max_lines=case.get("max_lines", 8))


def name_of(case: Any) -> str:
    return case["name"] if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(("step", "case"), STEP_CASES, ids=name_of)
def test_a_step(step: str, case: dict[str, Any]) -> None:
    apply = import_module(f"serving.postprocess.{step}").apply
    assert apply(case["text"], Place.of(request_of(case))) == case["want"]


@pytest.mark.parametrize(("step", "case"), CASES, ids=name_of)
def test_all_steps(step: str, case: dict[str, Any]) -> None:
    processed = postprocess(case["text"], request_of(case), StopReason(case.get("reason", "line")))
    shown = case.get("shown", case.get("want"))
    assert processed.text == shown
    if "dropped_by" in case:
        assert processed.dropped_by == case["dropped_by"]
    assert (processed.dropped_by is not None) == (not processed.text and bool(case["text"]))


def test_it_says_which_steps_changed_the_text() -> None:
    request = CompletionRequest(prefix="print(", suffix=")\n", language="python", max_lines=1)
    assert postprocess("x )<|endoftext|>", request, StopReason.EOS) == Processed("x ", None, ("special", "following"))


def test_without_grammars_nothing_is_held_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tree_sitter", None)
    syntax.parser_of.cache_clear()
    request = CompletionRequest(prefix="x = 1\n", suffix="\ny = 2\n", language="python", max_lines=1)
    assert postprocess("x = = 3", request, StopReason.LINE).text == "x = = 3"
    syntax.parser_of.cache_clear()


WORDS = ("a", "foo", "x = 1", "return x", "if a:", "} else {", "else:", "// c", "# c", "é😀", "f(x)", "/*", "*/")
MARKS = ("(", ")", "[", "]", "{", "}", '"', "'", '"""', "`", ",", ";", ":", "\\", "<|endoftext|>", "'a")
BLANKS = (" ", "    ", "  ", "\t", "\n", "\n    ", "\n\t", "\r\n", "\n\n")
code = st.lists(st.sampled_from((*WORDS, *MARKS, *BLANKS)), max_size=14).map("".join)
requests = st.builds(
    CompletionRequest,
    prefix=code,
    suffix=code,
    language=st.sampled_from(["python", "javascript", "go", "rust", "cpp", "java", "yaml", "html", "sh", None]),
    max_lines=st.sampled_from([1, 3, 8]),
)
reasons = st.sampled_from(StopReason)


@settings(max_examples=400)
@given(code, requests, reasons)
def test_what_is_left_is_a_piece_of_the_text(text: str, request: CompletionRequest, reason: StopReason) -> None:
    left = postprocess(text, request, reason).text
    assert "".join(left.split()) in "".join(text.split())
    assert left.count("\n") <= text.count("\n")


@settings(max_examples=400)
@given(code, requests, reasons)
def test_twice_is_once(text: str, request: CompletionRequest, reason: StopReason) -> None:
    once = postprocess(text, request, reason).text
    assert postprocess(once, request, reason).text == once


@settings(max_examples=400)
@given(code, requests, reasons)
def test_no_closer_without_partner_comes_in(text: str, request: CompletionRequest, reason: StopReason) -> None:
    place = Place.of(request)
    around = Surroundings(place.request.prefix, place.request.suffix, place.language)
    left = postprocess(text, request, reason).text.replace("\r\n", "\n")
    assert around.surplus(left) <= around.surplus("")


@given(requests, reasons)
def test_nothing_stays_nothing(request: CompletionRequest, reason: StopReason) -> None:
    assert postprocess("", request, reason) == Processed("")


@given(code, st.booleans())
def test_without_indentation_nothing_grows(text: str, lines: bool) -> None:
    request = CompletionRequest(prefix="x = ", suffix="\n", language="go", max_lines=8 if lines else None)
    assert len(postprocess(text, request, StopReason.EOS).text) <= len(text)


@pytest.mark.parametrize("indent", ["", "    ", "\t"])
def test_a_line_without_end_is_as_one_of_a_few_thousand_characters(indent: str) -> None:
    """What is looked at is bounded, and its indentation and its ends are among it."""
    few, many = (
        CompletionRequest(
            prefix=f"{indent}x = f({'a, ' * count}",
            suffix=f"{'b, ' * count})\n",
            language="python",
            max_lines=8,
        )
        for count in (1_000, 100_000)
    )
    place = Place.of(many)
    assert place.before.startswith(indent) and place.before.endswith("a, ")
    assert len(place.before) + len(place.after) < 5_000
    for text in ("c, ", "c)", "c\n" + indent + "y = 1", indent + "b, b, "):
        assert postprocess(text, many, StopReason.LINE) == postprocess(text, few, StopReason.LINE)
        rules, same = StopRules.of(many), StopRules.of(few)
        assert (len(rules.before), rules.find(text)) == (len(same.before), same.find(text))


def test_brackets_without_number_are_data() -> None:
    request = CompletionRequest(prefix="(" * 30_000 + "\nx = f(", suffix=")\n" + ")" * 30_000, language="python", max_lines=1)
    assert len(Surroundings(request.prefix, request.suffix, Place.of(request).language).of("").opens) <= DEPTH
    assert postprocess("a, b)", request, StopReason.LINE).text == "a, b"
