"""Chunks that stay in their places."""

from hypothesis import given
from hypothesis import strategies as st

from serving.workspace.chunks import Chunk
from serving.workspace.relevance import Scored
from serving.workspace.sticky import GAIN_AT_JUMP, GAIN_NEARBY, JUMP, StickyChunks

TEXT = "x" * 93 + "\n"  # with its name, and a token a byte, 100 tokens: a.py⏎, the separator and the text


def encode(text: str) -> bytes:
    return text.encode()


def scored(**scores: float) -> list[Scored]:
    found = [Scored(Chunk(f"{name}.py", 0, 1, TEXT), score) for name, score in scores.items()]
    return sorted(found, key=lambda one: (-one.score, one.chunk.path))


class Prompts:
    """The chunks of prompts in documents, one after the other, by the names of their files."""

    def __init__(self, budget: int = 300) -> None:
        self.sticky = StickyChunks()
        self.budget = budget
        self.asked = 0
        self.gone: set[str] = set()

    def __call__(self, line: int, document: str = "open", **scores: float) -> str:
        def rank() -> list[Scored]:
            self.asked += 1
            return scored(**scores)

        def usable(path: str) -> bool:
            return path[0] not in self.gone

        chunks = self.sticky.choose(document, line, rank, usable, self.budget, encode)
        assert sum(len(chunk.text) + len(chunk.path) + 2 for chunk in chunks) <= self.budget
        return "".join(chunk.path[0] for chunk in chunks)


def test_the_best_that_fit_the_best_first() -> None:
    assert Prompts()(0, a=1, b=3, c=2, d=0.5) == "bca"


def test_within_a_line_nothing_changes() -> None:
    prompts = Prompts()
    prompts(7, a=1, b=1)
    assert prompts(7, c=9) == "ab"
    assert prompts.asked == 1


def test_near_by_only_a_far_better_chunk_takes_a_slot_the_last_it_can() -> None:
    prompts = Prompts()
    assert prompts(0, a=3, b=2, c=1) == "abc"
    assert prompts(1, a=3, b=2, c=1, d=GAIN_NEARBY * 1) == "abc"
    assert prompts(2, a=3, b=2, c=1, d=GAIN_NEARBY * 1.1, e=2.1) == "abd", "and no second one"
    assert prompts(3, b=2, d=2.2, e=GAIN_NEARBY * 2.1) == "ade", "a is remembered, though it is not among the best now"


def test_after_a_jump_a_better_chunk_is_enough_and_those_that_stay_stand_first() -> None:
    prompts = Prompts()
    prompts(0, a=3, b=2, c=1)
    assert prompts(JUMP, a=1, b=1, c=1, d=GAIN_AT_JUMP * 1.1) == "abc"
    assert prompts(JUMP + 1, a=1, b=1, c=1, d=GAIN_AT_JUMP) == "abc"
    assert prompts(2 * JUMP + 2, a=1, b=0.5, c=1, d=GAIN_AT_JUMP * 0.9, e=0.1) == "acd"


def test_typing_on_for_long_is_a_jump_in_the_end() -> None:
    prompts = Prompts()
    prompts(0, a=1, b=1, c=1)
    shown = [prompts(line, a=1, b=1, c=1, d=1.5, e=0.7) for line in range(1, 2 * JUMP)]
    assert shown[: JUMP - 1] == ["abc"] * (JUMP - 1)
    assert len(set(shown)) == 2


def test_what_came_later_fills_free_room_at_a_jump() -> None:
    prompts = Prompts()
    assert prompts(0, a=1) == "a"
    assert prompts(1, a=1, b=1) == "a"
    assert prompts(2 + JUMP, a=1, b=1) == "ab"


def test_an_index_that_was_not_ready_is_asked_again() -> None:
    prompts = Prompts()
    assert prompts(0) == ""
    assert prompts(0, a=1) == "a"


def test_another_document_begins_with_the_same_chunks() -> None:
    prompts = Prompts()
    prompts(0, a=3, b=2, c=1)
    assert prompts(50, "second", b=2, a=1.8, d=3) == "abd"
    assert prompts(0, "open", z=9) == "abc", "each has its own"


def test_a_chunk_whose_file_is_gone_or_opened_goes_at_once() -> None:
    prompts = Prompts()
    prompts(0, a=3, b=2, c=1)
    prompts.gone = {"b"}
    assert prompts(0, a=3, c=1) == "ac"


def test_a_chunk_whose_text_has_changed_is_renewed_at_a_jump() -> None:
    sticky = StickyChunks()
    old, new = (Scored(Chunk("a.py", 0, 1, text), 1.0) for text in ("old\n", "new\n"))
    for line, now, shown in ((0, old, "old\n"), (1, new, "old\n"), (JUMP + 2, new, "new\n")):
        chunks = sticky.choose("open", line, lambda now=now: [now], lambda _: True, 100, encode)  # type: ignore[misc]
        assert [chunk.text for chunk in chunks] == [shown]


scores = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 4), max_size=6)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["one", "two"]), scores), max_size=30),
    st.sampled_from([50, 250, 300, 420]),
)
def test_any_way_through_documents(moves: list[tuple[int, str, dict[str, float]]], budget: int) -> None:
    prompts = Prompts(budget)
    before: dict[str, str] = {}
    for line, document, ranked in moves:
        shown = prompts(line, document, **ranked)
        assert len(set(shown)) == len(shown) <= budget // 100
        stayed = [name for name in before.get(document, "") if name in shown]
        assert shown.startswith("".join(stayed)), "those that stay come first, in their order"
        before[document] = shown
