"""The index says the same whichever way it came about."""

import re

from hypothesis import given
from hypothesis import strategies as st

from serving.workspace.chunks import Chunk, cut
from serving.workspace.identifiers import terms, words
from serving.workspace.index import Index

texts = st.lists(
    st.sampled_from(["def load_user(name):", "    return get_user(name)", "", "class Request:", "x = parseHTMLPage(1)"]),
    max_size=30,
).map("\n".join)
changes = st.lists(st.tuples(st.sampled_from(["a.py", "b.py", "lib/c.py", "lib/d.py"]), texts | st.none()), max_size=30)
QUERY = {"user": 1.0, "loaduser": 1.0, "request": 0.5, "=Request": 2.0, "html": 1.0}


def by_chunk(index: Index) -> dict[Chunk, float]:
    scores = index.scores(index.weights(QUERY))
    return {chunk: round(float(scores[number]), 4) for number, chunk in index.known(range(len(index.chunks)))}


@given(changes)
def test_what_came_and_went_leaves_no_trace(changes: list[tuple[str, str | None]]) -> None:
    index = Index()
    files: dict[str, str] = {}
    for path, text in changes:
        if text is None:
            index.remove(path)
            files.pop(path, None)
        else:
            index.put(path, cut(path, text))
            files[path] = text
    fresh = Index()
    for path, text in files.items():
        fresh.put(path, cut(path, text))
    assert set(index.files) == set(files)
    assert index.folders == fresh.folders
    assert len(index) == len(fresh) == sum(len(cut(path, text)) for path, text in files.items())
    index._clear_up()
    assert by_chunk(index) == by_chunk(fresh)
    assert {path: len(chunks) for path, chunks in index.files.items()} == {
        path: len(chunks) for path, chunks in fresh.files.items()
    }


def test_the_dead_are_cleared_up() -> None:
    index = Index()
    chunks = cut("a.py", "\n\n\n".join(f"def function_{number}():\n" + "    pass\n" * 8 for number in range(50)))
    for _ in range(100):
        index.put("a.py", chunks)
    assert len(index) == len(chunks)
    assert len(index.chunks) < 20 * len(chunks)
    assert all(max(chunk >> 4 for chunk in posting) < len(index.chunks) for posting in index._postings.values())


def test_a_chunk_outside_scores_as_it_would_inside() -> None:
    index = Index()
    for number in range(20):
        index.put(f"{number}.py", cut(f"{number}.py", f"def load_{number}(user):\n    return user.name_{number}\n"))
    weights = index.weights({"name3": 1.0, "=load_3": 1.0})
    number, chunk = next(index.known(index.files["3.py"]))
    assert index.score_of(words(chunk.text), weights) > 0
    assert abs(index.score_of(words(chunk.text), weights) - index.scores(weights)[number]) < 1e-4


def test_rare_terms_weigh_more() -> None:
    index = Index()
    for number in range(20):
        index.put(f"{number}.py", cut(f"{number}.py", f"common = rare_{number}\n"))
    weights = index.weights({"common": 1.0, "rare3": 1.0})
    assert weights["rare3"] > 5 * weights["common"] > 0


def test_the_parts_of_identifiers() -> None:
    assert terms("getUserName") == ("getusername", "get", "user", "name")
    assert terms("HTTPServer2") == ("httpserver2", "http", "server")
    assert terms("MAX_BODY_SIZE") == ("maxbodysize", "max", "body", "size")
    assert words("func (s *Server) ServeHTTP(w) { x }").counts["=ServeHTTP"] == 1


@given(st.text(max_size=80))
def test_any_text_has_words(text: str) -> None:
    found = words(text)
    assert found.length == len(re.findall(r"[^\W\d]\w{2,63}", text))
    assert all(count > 0 for count in found.counts.values())
