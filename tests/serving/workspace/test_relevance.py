"""Which chunks matter, and which fit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request import RecentKind
from serving.workspace.chunks import cut
from serving.workspace.index import Index
from serving.workspace.relevance import SMALL_BUDGET, Cursor, Mention, Scored, Source, chunk_lines, fit, lines_of, query, rank

FILES = {
    "app/main.py": "from lib.store import Store\n\n\ndef main():\n    return open_store('x')\n",
    "app/sibling.py": "def sibling_helper(name):\n    return name.strip_it()\n",
    "lib/store.py": "class Store:\n    def flush_all(self):\n        return self.nothing\n",
    "lib/opening.py": "def open_store(path):\n    return Store(path)\n",
    "lib/other.py": "def unrelated(thing):\n    return thing.quite_different\n",
    "web/page.js": "function open_store(path) {\n  return path\n}\n",
}
CURSOR = Cursor(
    "app/main.py",
    "from lib.store import Store\n\n\ndef main():\n    first = open_store('x')\n    second = ",
    "\n    return second\n",
    imports=frozenset({"lib/store.py"}),
    mentions=(Mention("lib/other.py", RecentKind.EDITED, 1, 2), Mention("web/page.js", RecentKind.OPENED)),
)


def encode(text: str) -> bytes:
    """A token a byte."""
    return text.encode()


@pytest.fixture
def index() -> Index:
    index = Index()
    for path, text in FILES.items():
        index.put(path, cut(path, text))
    return index


def found(ranked: list[Scored]) -> list[str]:
    return [one.chunk.path for one in ranked]


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        (Source.IMPORTS, ["lib/store.py"]),
        (Source.EDITED, ["lib/other.py"]),
        (Source.OPENED, ["web/page.js"]),
        (Source.SIBLINGS, ["app/sibling.py"]),
    ],
)
def test_each_source_alone(index: Index, source: Source, paths: list[str]) -> None:
    assert sorted(found(rank(index, CURSOR, [source]))) == paths
    assert rank(index, CURSOR, []) == []


def test_where_an_identifier_is_declared_matters_most(index: Index) -> None:
    names = rank(index, CURSOR, [Source.IDENTIFIERS])
    assert found(names)[0] == "lib/opening.py"
    assert names[0].score > 2 * names[2].score
    ranked = rank(index, CURSOR)
    assert set(found(ranked)) == set(FILES) - {"app/main.py"}
    assert ranked == rank(index, CURSOR), "the same again"


def test_an_edit_is_of_its_lines(index: Index) -> None:
    index.put("lib/long.py", cut("lib/long.py", "\n\n\n".join(f"def f{number}():\n" + "    pass\n" * 9 for number in range(3))))
    cursor = replace(CURSOR, mentions=(Mention("lib/long.py", RecentKind.EDITED, 14, 15),))
    ranked = [one.chunk for one in rank(index, cursor, [Source.EDITED])]
    assert [chunk.text[:7] for chunk in ranked] == ["def f1("]


def test_the_latest_counts_most(index: Index) -> None:
    mentions = tuple(Mention(path, RecentKind.OPENED) for path in ("lib/other.py", "lib/store.py", "lib/opening.py"))
    assert found(rank(index, replace(CURSOR, mentions=mentions), [Source.OPENED])) == [one.path for one in mentions]


def test_what_a_request_brings_counts_in_the_place_of_the_index(index: Index) -> None:
    now = "def open_store(path, mode):\n    return Store(path, mode)\n"
    cursor = replace(CURSOR, given=tuple(cut("lib/opening.py", now)), replaced=frozenset({"lib/opening.py"}))
    ranked = rank(index, cursor, [Source.IDENTIFIERS])
    assert [one.chunk.text for one in ranked if one.chunk.path == "lib/opening.py"] == [now]
    assert found(ranked)[0] == "lib/opening.py"
    assert found(rank(Index(), cursor)) == ["lib/opening.py"], "even where nothing else is known"


def test_copies_of_what_is_shown_are_left_out(index: Index) -> None:
    index.put("old/main.py", cut("old/main.py", CURSOR.prefix))
    index.put("copy/opening.py", cut("copy/opening.py", FILES["lib/opening.py"]))
    ranked = found(rank(index, CURSOR))
    assert "old/main.py" not in ranked
    assert ("copy/opening.py" in ranked) + ("lib/opening.py" in ranked) == 1


def test_the_word_that_is_being_written_does_not_count() -> None:
    assert query("open_sto", "re(x)") == {}
    assert query("a = open_store(unfinis", "") == query("a = open_store(", "")
    assert query("first_one\n\nlast_one = ", "")["lastone"] > query("first_one\n\nlast_one = ", "")["firstone"]


lines = st.lists(
    st.sampled_from(["def load_user(name):", "    return get_user(name)", "", "class Request:", "    x = parse(1)", "y"]),
    max_size=60,
)


@given(st.lists(lines, max_size=6), lines, st.integers(0, 2 * SMALL_BUDGET))
def test_no_repetitions_and_no_more_than_fits(files: list[list[str]], open_lines: list[str], budget: int) -> None:
    index = Index()
    for number, text in enumerate(files):
        index.put(f"{number}.py", cut(f"{number}.py", "\n".join(text)))
    prefix = "\n".join(open_lines)
    ranked = rank(index, Cursor("open.py", prefix, "", imports=frozenset(f"{number}.py" for number in range(6))))
    shown = set(lines_of(prefix))
    for one in ranked:
        mine = chunk_lines(one.chunk.text)
        assert 2 * len(mine & shown) <= len(mine)
        shown |= mine
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    fitted = fit(ranked, budget, encode)
    assert sum(len(f"{one.chunk.path}\n{one.chunk.text}") + 1 for one in fitted) == sum(one.tokens for one in fitted) <= budget


def test_heads_are_taken_where_there_is_little_room(index: Index) -> None:
    text = "def load(path):\n" + "    x = 1\n" * 20
    ranked = [Scored(chunk, 1.0) for chunk in cut("a.py", text)]
    whole, small, short = (fit(ranked, budget, encode) for budget in (1000, SMALL_BUDGET - 1, 10))
    assert [one.chunk.text for one in whole] == [text]
    assert [one.chunk.text for one in small] == ["def load(path):\n"]
    assert short == []
    assert [one.chunk.text for one in fit(ranked * 2, len(text) + 30, encode)] == [text, "def load(path):\n"], (
        "the second has room for its head"
    )
