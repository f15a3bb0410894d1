"""Searching a table finds what a look at every row finds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.mixture.open_file import rows, whole
from serving.mixture.table import LARGE, LIMIT, MAX_VOCAB, ORDER, Table

small_ids = st.lists(st.integers(0, 3), max_size=60)


def table_of(documents: list[list[int]]) -> Table:
    table = Table.empty()
    for tag, ids in enumerate(documents):
        if ids:
            table = table.changed((), rows([whole(ids)], 0, [tag]))
    return table


def found(table: Table, context: list[int]) -> list[tuple[int, int, int]]:
    matches = table.search(context)
    return [] if matches is None else sorted(zip(*(column.tolist() for column in matches), strict=True))


def common_end(one: list[int], other: list[int]) -> int:
    length = 0
    while length < min(len(one), len(other), ORDER) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


@given(documents=st.lists(small_ids, max_size=3), context=st.lists(st.integers(0, 3), min_size=ORDER, max_size=12))
def test_every_row_that_shares_the_last_token_is_found_with_the_length_of_its_match(
    documents: list[list[int]], context: list[int]
) -> None:
    expected = [
        (ids[i], tag, length)
        for tag, ids in enumerate(documents)
        for i in range(len(ids))
        if (length := common_end(ids[:i], context))
    ]
    assert found(table_of(documents), context) == sorted(expected)


@given(documents=st.lists(small_ids, min_size=1, max_size=4), data=st.data())
def test_without_a_tag_is_as_if_it_had_never_been_there(documents: list[list[int]], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(documents) - 1))
    context = data.draw(st.lists(st.integers(0, 3), min_size=ORDER, max_size=ORDER))
    left = [ids if tag != gone else [] for tag, ids in enumerate(documents)]
    assert found(table_of(documents).changed([gone]), context) == found(table_of(left), context)


@given(documents=st.lists(small_ids, min_size=2, max_size=4), data=st.data())
def test_rows_that_go_and_come_at_once(documents: list[list[int]], data: st.DataObject) -> None:
    new = data.draw(small_ids.filter(bool))
    gone = data.draw(st.sets(st.integers(0, len(documents) - 1)))
    context = data.draw(st.lists(st.integers(0, 3), min_size=ORDER, max_size=ORDER))
    changed = table_of(documents).changed(sorted(gone), rows([whole(new)], 0, [len(documents)]))
    left = [ids if tag not in gone else [] for tag, ids in enumerate(documents)]
    assert found(changed, context) == found(table_of([*left, new]), context)
    assert (changed.near[1:] >= changed.near[:-1]).all()


def test_a_table_of_megabytes_is_as_a_small_one() -> None:
    count = LARGE // 4 + 1
    one = rows([whole(list(range(3)) * (count // 3))], 0, [0])
    table = Table.empty().changed((), one).changed((), rows([whole([0, 1, 2, 7])], 0, [1]))
    assert table.tags.nbytes > LARGE
    assert 7 in table.changed([0]).following
    assert 7 not in table.changed([1]).following
    assert len(table.changed([1])) == len(one.near)


def test_the_longest_matches_are_kept_where_there_are_too_many() -> None:
    common, rare = [5, 1, 2, 3, 4, 100], [6, 7, 8, 9, 1, 2, 3, 4, 200]
    table = table_of([common * (2 * LIMIT) + rare + common * (2 * LIMIT)])
    matches = table.search([6, 7, 8, 9, 1, 2, 3, 4])
    assert matches is not None and len(matches.following) == LIMIT
    assert matches.following[matches.lengths == ORDER].tolist() == [200]


def test_a_common_short_context_gives_a_sample_of_all() -> None:
    table = table_of([[token for i in range(4 * LIMIT) for token in (1000 + i, 1, 2 + i % 2)]])
    matches = table.search([50, 51, 52, 53, 54, 55, 56, 1])
    assert matches is not None and len(matches.following) == LIMIT
    assert set(matches.following.tolist()) == {2, 3}


def test_the_greatest_id_does_not_overflow() -> None:
    last = MAX_VOCAB - 1
    assert found(table_of([[last] * 3]), [last] * ORDER) == [(last, 0, 1), (last, 0, 2)]


def test_memory_is_24_bytes_a_token() -> None:
    table = table_of([list(range(1000))])
    assert table.nbytes == 24 * len(table) == 24 * 1000
    assert np.all(table.near[1:] >= table.near[:-1])
