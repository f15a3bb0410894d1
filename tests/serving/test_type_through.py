from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request import Completion, CompletionRequest, StopReason, Timings, TriggerKind
from serving.type_through import NO_WORK, REACH, ShownSuggestions, Suggestion

TIMINGS = Timings(prompt_tokens=90, cached_tokens=80, predicted_tokens=7, queue_ms=1, prompt_ms=2, predict_ms=3, total_ms=6)
ASKED = CompletionRequest(
    prefix="import os\n\nx = ", suffix="\nprint(x)\n", document="a.py", client="one", language="python",
    trigger=TriggerKind.AUTOMATIC, max_lines=1,
)  # fmt: skip


def completion(text: str, id_: str = "cmpl-1") -> Completion:
    return Completion(id=id_, text=text, stop_reason=StopReason.LINE, logprobs=(-0.5, -0.1), timings=TIMINGS)


def typed(text: str, suffix: str = "", request: CompletionRequest = ASKED) -> CompletionRequest:
    return replace(request, prefix=request.prefix + text, suffix=suffix + request.suffix)


@pytest.fixture
def shown() -> ShownSuggestions:
    shown = ShownSuggestions()
    shown.remember(ASKED, completion("os.path.join(a, b)"))
    return shown


def text_of(found: Completion | None) -> str | None:
    return found.text if found else None


def test_what_is_typed_along_costs_the_model_nothing(shown: ShownSuggestions) -> None:
    whole = "os.path.join(a, b)"
    for length in range(len(whole)):
        found = shown.find(typed(whole[:length]))
        assert found is not None
        assert found.text == whole[length:]
        assert found.timings == NO_WORK
        assert found.timings.predicted_tokens == 0
        assert found.id == ("cmpl-1" if length == 0 else f"cmpl-1-{length}")
        assert found.confidence == completion("x").confidence
    assert shown.find(typed(whole)) is None, "nothing is left"


def test_word_by_word_and_back(shown: ShownSuggestions) -> None:
    for part, rest in (
        ("os.", "path.join(a, b)"),
        ("os.path.join(", "a, b)"),
        ("os.p", "ath.join(a, b)"),
        ("", "os.path.join(a, b)"),
    ):
        assert text_of(shown.find(typed(part))) == rest


def test_another_way_and_back(shown: ShownSuggestions) -> None:
    assert shown.find(typed("os.x")) is None
    assert text_of(shown.find(typed("os."))) == "path.join(a, b)"


def test_the_bracket_that_the_editor_closed(shown: ShownSuggestions) -> None:
    assert text_of(shown.find(typed("os.path.join(", ")"))) == "a, b"
    assert text_of(shown.find(typed("os.path.join(a", ")"))) == ", b"
    shown.remember(ASKED, completion("d['key']"))
    assert text_of(shown.find(typed("d['", "']"))) == "key"


@pytest.mark.parametrize(
    "request_",
    [
        replace(ASKED, suffix="\nprint(y)\n"),
        replace(ASKED, suffix="x" + ASKED.suffix),
        replace(ASKED, prefix="import re\n\nx = os."),
        replace(ASKED, prefix="import os\n\nx ="),
        replace(ASKED, document="b.py"),
        replace(ASKED, client="two"),
        replace(ASKED, document=None),
        replace(ASKED, temperature=0.8),
        replace(ASKED, stop=(";",)),
        replace(ASKED, max_lines=None),
        replace(ASKED, trigger=TriggerKind.INVOKED, max_lines=8),
    ],
)
def test_what_is_another_request(shown: ShownSuggestions, request_: CompletionRequest) -> None:
    assert shown.find(request_) is None


def test_an_explicit_suggestion_stays_while_typing() -> None:
    shown, asked = ShownSuggestions(), replace(ASKED, trigger=TriggerKind.INVOKED, max_lines=8)
    shown.remember(asked, completion("f(\n    1\n)"))
    assert text_of(shown.find(typed("f(\n"))) == "    1\n)"
    assert text_of(shown.find(typed("f", request=asked))) == "(\n    1\n)"


def test_the_newest_that_fits(shown: ShownSuggestions) -> None:
    shown.remember(typed("os.x"), completion("y", "cmpl-2"))
    assert text_of(shown.find(typed("os.x"))) == "y"
    assert text_of(shown.find(typed("os."))) == "path.join(a, b)"
    shown.remember(typed("os."), completion("getcwd()", "cmpl-3"))
    assert text_of(shown.find(typed("os."))) == "getcwd()"
    assert text_of(shown.find(typed("os.p"))) == "ath.join(a, b)"


def test_what_is_sent_away_does_not_come_back(shown: ShownSuggestions) -> None:
    shown.dismiss("cmpl-1-3")
    assert shown.find(ASKED) is None
    assert shown.find(typed("sys")) is None


def test_what_was_sent_away_is_known_again(shown: ShownSuggestions) -> None:
    shown.dismiss("cmpl-1")
    assert shown.sent_away(ASKED, "os.path.join(a, b)")
    assert shown.sent_away(typed("os."), "path.join(a, b)\nprint(a)"), "and more"
    assert shown.sent_away(typed("os."), "path"), "or less"
    assert not shown.sent_away(typed("os."), "getcwd()")
    assert not shown.sent_away(typed("sys"), "path.join(a, b)"), "another way was gone"
    assert not shown.sent_away(typed("os.", request=replace(ASKED, trigger=TriggerKind.INVOKED)), "path.join(a, b)")
    for other in ({"client": "two"}, {"document": "b.py"}):
        assert not shown.sent_away(replace(ASKED, **other), "os.path.join(a, b)")  # type: ignore[arg-type]


def test_nothing_to_show_is_not_remembered() -> None:
    shown = ShownSuggestions()
    shown.remember(ASKED, completion("  "))
    shown.remember(replace(ASKED, document=None), completion("x"))
    assert shown.find(ASKED) is None


def test_the_memory_is_bounded() -> None:
    shown = ShownSuggestions(documents=2)
    for name in ("a", "b", "c"):
        shown.remember(replace(ASKED, document=name), completion(name))
        shown.find(replace(ASKED, document="a"))
    assert [text_of(shown.find(replace(ASKED, document=name))) for name in "abc"] == ["a", None, "c"]
    for number in range(50):
        shown.remember(replace(ASKED, document="a"), completion(f"{number}"))
    assert shown.find(typed("0", request=replace(ASKED, document="a"))) is None


def test_of_a_large_file_little_is_kept_and_its_cursor_is_told_from_others() -> None:
    lines = "".join(f"x{number} = {number}\n" for number in range(100_000))
    large = replace(ASKED, prefix=lines + "y = ", suffix="\n" + lines)
    suggestion = Suggestion.of(large, completion("os.path.join(a, b)"))
    assert len(suggestion.request.prefix) == len(suggestion.request.suffix) == REACH
    shown = ShownSuggestions()
    shown.remember(large, suggestion.completion)
    assert text_of(shown.find(typed("os.", request=large))) == "path.join(a, b)"
    assert text_of(shown.find(typed("os.path.join(", ")", large))) == "a, b"
    assert shown.find(replace(large, prefix=large.prefix + "x")) is None
    assert shown.find(replace(large, prefix="z" + large.prefix)) is None
    assert shown.find(replace(large, suffix="\nz" + large.suffix[2:])) is None


words = st.text(st.sampled_from("ab ()\n"), max_size=8)


@given(words, words, words, words)
def test_the_rest_follows_what_is_typed(prefix: str, suggestion: str, more: str, suffix: str) -> None:
    shown, asked = ShownSuggestions(), replace(ASKED, prefix=prefix, suffix=suffix)
    shown.remember(asked, completion(suggestion))
    found = shown.find(replace(asked, prefix=prefix + more))
    fits = suggestion.startswith(more) and bool(suggestion[len(more) :].strip())
    assert (found is not None) == fits
    if found:
        assert prefix + more + found.text == prefix + suggestion
