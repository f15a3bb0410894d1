"""Nodes of the syntax tree as what is filled in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codelm.corpus.languages import language_map
from codelm.corpus.parse import parser_of
from training.syntax_spans import captured, filled, nodes, query, syntax_span

CASES = yaml.safe_load(Path(__file__).with_name("syntax_spans.yaml").read_text(encoding="utf-8"))
KINDS = ("block", "statement", "expression", "arguments")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_is_taken(case: dict[str, Any]) -> None:
    text = case["text"]
    found = captured(text.encode(), case["language"])
    taken = {kind: {filled(text, node, kind) for node in found.get(kind, ())} - {None} for kind in KINDS}
    assert {kind: sorted({text[s[0] : s[1]] for s in spans if s}) for kind, spans in taken.items()} == {
        kind: sorted(case[kind]) for kind in KINDS
    }
    drawn = {syntax_span(text, case["language"], np.random.default_rng(seed)) for seed in range(300)}
    assert drawn == (set().union(*taken.values()) or {None})


@pytest.mark.parametrize("language", nodes())
def test_every_name_is_one_of_the_grammar(language: str) -> None:
    takes = parser_of(language)
    assert takes is not None
    assert takes.language is not None
    query(takes.language, language)  # a name that the grammar does not know is an error
    assert set(nodes()[language]) == set(KINDS)
    assert language in language_map().names


LINES = {
    "Python": ["def f(x):", "    return g(x, 1)", "class A:", "if a:", "größe = [1, 2", "'''", "    )", "@d", ""],
    "C": ["int f(int a) {", "  return g(a);", "}", "#if X", "struct S {", "/*", "  *p = a[1];", "'", ""],
    "TypeScript": ["const a = (b: T) => {", "  return `x${b}`", "}", "interface I {", "<A>b", "  f(1, {c})", "//", ""],
}


@given(st.sampled_from(sorted(LINES)), st.data())
def test_any_text_has_whole_nodes_or_none(language: str, data: st.DataObject) -> None:
    line = st.sampled_from(LINES[language]) | st.text(max_size=10)
    text = "\n".join(data.draw(st.lists(line, max_size=30)))
    seed = data.draw(st.integers(0, 2**32))
    span = syntax_span(text, language, np.random.default_rng(seed))
    assert span == syntax_span(text, language, np.random.default_rng(seed)), "the same draw, the same span"
    if span is None:
        return
    middle = text[span[0] : span[1]]
    assert middle
    assert middle == middle.strip()
    assert len(middle) < len(text.strip())
