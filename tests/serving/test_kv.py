from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.kv import LITTLE, WORTH_SHARING, KvCache, common_prefix


class Lengths:
    """Counts what a backend would hold, which is all that is asked of it here."""

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self.held: dict[int, int] = {}
        self.shared: list[tuple[int, int, int]] = []

    def keep(self, sequence: int, length: int) -> None:
        self.held[sequence] = min(length, self.held.get(sequence, 0))

    def share(self, source: int, target: int, length: int) -> None:
        assert length <= self.held[source]
        self.shared.append((source, target, length))
        self.held[target] = length


def read(kv: KvCache, key: Any, prompt: list[int]) -> tuple[int, int]:
    """Begins, reads and ends a prompt: its sequence, and how many tokens were there."""
    sequence = kv.begin(key, prompt)
    assert sequence
    found = len(sequence.tokens)
    assert sequence.tokens == prompt[:found]
    unread = prompt[found:]
    kv._backend.held[sequence.id] = found + len(unread)  # type: ignore[attr-defined]
    kv.extend(sequence, unread)
    kv.end(sequence)
    return sequence.id, found


def kv_of(sequences: int) -> tuple[KvCache, Lengths]:
    backend = Lengths(sequences)
    return KvCache(backend), backend  # type: ignore[arg-type]


REPO = list(range(1000, 1000 + 2 * WORTH_SHARING))


def test_a_document_goes_on_in_its_sequence() -> None:
    kv, _ = kv_of(4)
    first, _ = read(kv, "a", [1, 2, 3, 4])
    assert read(kv, "a", [1, 2, 3, 4, 5]) == (first, 4)
    assert read(kv, "a", [1, 2, 9]) == (first, 2)
    assert read(kv, "a", [1, 2, 9]) == (first, 2), "the last token is read for its scores"


def test_what_documents_have_in_common_is_copied_and_stays_where_it_was() -> None:
    kv, backend = kv_of(4)
    one, two = [*REPO, *range(100)], [*REPO, *range(500, 600)]
    first, _ = read(kv, "a", one)
    second, found = read(kv, "b", two)
    assert (second != first, found, backend.shared) == (True, len(REPO), [(first, second, len(REPO))])
    assert read(kv, "a", one) == (first, len(one) - 1)
    assert read(kv, "b", two) == (second, len(two) - 1)


def test_a_short_document_is_left_alone_while_there_is_room() -> None:
    kv, _ = kv_of(2)
    first, _ = read(kv, "a", [1, 2, 3, 4])
    second, found = read(kv, "b", [1, 2, 5])
    assert (second != first, found) == (True, 0)
    assert read(kv, "a", [1, 2, 3, 4]) == (first, 3)


def test_a_sequence_in_use_is_copied_from_too() -> None:
    kv, backend = kv_of(2)
    running = kv.begin("a", [*REPO, 1])
    assert running
    backend.held[running.id] = len(REPO) + 1
    kv.extend(running, [*REPO, 1])
    assert read(kv, "b", [*REPO, 2])[1] == len(REPO)
    assert running.tokens == [*REPO, 1]


def test_what_has_expired_goes_before_the_least_recently_used() -> None:
    kv, _ = kv_of(2)
    first, _ = read(kv, "a", [1] * 200)
    second, _ = read(kv, "b", [2] * 200)
    kv.expire("b")
    assert read(kv, "c", [3] * 200)[0] == second
    assert read(kv, "a", [1] * 200) == (first, 199)


def test_what_is_not_whole_is_gone_on_from_or_goes_first() -> None:
    kv, backend = kv_of(2)
    first, _ = read(kv, "a", [1] * 200)
    part = kv.begin("b", [2] * 200)
    assert part
    backend.held[part.id] = 100
    kv.extend(part, [2] * 100)
    kv.end(part, whole=False)
    assert read(kv, "b", [2] * 200) == (part.id, 100)
    kv.end(part, whole=False)
    assert read(kv, "c", [3] * 200)[0] == part.id
    assert read(kv, "a", [1] * 200) == (first, 199)


def test_the_least_recently_used_goes_first() -> None:
    kv, _ = kv_of(3)
    prompts = {name: list(range(start, start + 200)) for start, name in enumerate("abcd", start=1)}
    places = {name: read(kv, name, [number * 1000 for number in prompts[name]])[0] for name in "abc"}
    read(kv, "a", [number * 1000 for number in prompts["a"]])
    assert read(kv, "d", [7_000_000 + number for number in range(200)])[0] == places["b"]
    assert read(kv, "c", [number * 1000 for number in prompts["c"]])[0] == places["c"]


def test_all_busy_is_none() -> None:
    kv, _ = kv_of(1)
    sequence = kv.begin("a", [1, 2])
    assert sequence
    assert kv.begin("b", [1, 2]) is None
    kv.end(sequence)
    assert kv.begin("b", [1, 2]) is sequence


def test_a_forgotten_sequence_is_not_gone_on_from() -> None:
    kv, backend = kv_of(1)
    read(kv, "a", [1, 2, 3])
    sequence = kv.begin("a", [1, 2, 3])
    assert sequence
    kv.forget(sequence)
    kv.end(sequence)
    assert backend.held[0] == 0
    assert read(kv, "a", [1, 2, 3])[1] == 0


def test_without_a_key_little_is_given_up_and_much_is_kept() -> None:
    kv, _ = kv_of(4)
    first, _ = read(kv, None, [*REPO, *range(LITTLE)])
    assert read(kv, None, [*REPO, 5, 5])[0] == first
    read(kv, None, [*REPO, *range(LITTLE + 1)])
    assert read(kv, None, [*REPO, 6, 6])[0] != first


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(one: list[int], other: list[int]) -> None:
    expected = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert common_prefix(one, other) == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", None]), st.lists(st.integers(0, 2), min_size=1, max_size=90)), max_size=30
    )
)
def test_a_prompt_never_finds_what_it_does_not_begin_with(work: list[tuple[str | None, list[int]]]) -> None:
    kv, backend = kv_of(3)
    for key, tail in work:
        read(kv, key, [*REPO[: 40 * (len(tail) % 3)], *tail])
        for sequence in kv._sequences:
            assert backend.held.get(sequence.id, 0) == len(sequence.tokens)
