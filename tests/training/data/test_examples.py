"""Pieces as fill-in-the-middle examples."""

import itertools
from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm import fim
from codelm.config.data import FimConfig
from codelm.tokenizer import Tokenizer
from training.data.examples import CODE, MIDDLE, PROSE, encode_parts, fim_piece
from training.data.packing import Piece

LINE = st.sampled_from(["def f(x):", "    return x", "", "\tif größe == '日本':", "        y = f(1, 2)  # <|endoftext|>", "}"])
CODE_TEXT = st.lists(LINE, min_size=8, max_size=40).map("\n".join)
BLANK = st.sampled_from(
    ["\n", "\r\n", "\n\n", " ", "    ", "\t", "\u2028", "\u3000", "\x0c", "\r", "x", "é", ".", "\n  ", "7", "'s"]
)
TEXT = CODE_TEXT | st.text(min_size=10) | st.lists(BLANK | LINE, min_size=5, max_size=40).map("".join)
ALL_KINDS = FimConfig(rate=1, character=1, ast=1, line=1, block=1, empty=1)


def piece_of(ids: Iterable[int], prose: Iterable[bool] | None = None) -> Piece:
    array = np.array(list(ids), dtype=np.int64)
    return Piece(array, np.array(list(prose), dtype=bool) if prose is not None else np.zeros(len(array), dtype=bool), 0)


@settings(max_examples=150)
@given(TEXT, st.booleans(), st.integers(0, 2**32), st.sampled_from(fim.Order))
def test_an_example_of_a_piece(tokenizer: Tokenizer, text: str, whole: bool, seed: int, order: fim.Order) -> None:
    tokens = tokenizer.fim
    piece = piece_of(tokenizer.encode(text) + [tokens.endoftext] * whole)
    config = ALL_KINDS.model_copy(update={"spm_rate": float(order is fim.Order.SPM)})
    ids, kinds = (array.tolist() for array in fim_piece(piece, tokenizer, config, np.random.default_rng(seed), "Python"))
    assert len(ids) == len(kinds)
    if ids == piece.ids.tolist():
        return
    assert len(ids) <= len(piece.ids)
    for special in (tokens.fim_prefix, tokens.fim_suffix, tokens.fim_middle, tokens.endoftext):
        assert ids.count(special) == 1
    assert ids[0] == tokens.fim_prefix
    assert ids[-1] == tokens.endoftext
    suffix_at, middle_at = ids.index(tokens.fim_suffix), ids.index(tokens.fim_middle)
    before, suffix, middle = ids[1:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 : -1]
    if order is fim.Order.SPM:
        assert before == []
        middle = middle[len(middle) - kinds.count(MIDDLE) + 1 :]
        before = ids[middle_at + 1 : len(ids) - len(middle) - 1]
    assert middle == tokenizer.encode(tokenizer.decode(middle).decode()), "tokenised apart and never cut"
    # only the far ends of the context are cut off, so what is left is one stretch of the text
    assert tokenizer.decode(before + middle + suffix) in text.encode()
    assert kinds[len(kinds) - len(middle) - 1 :] == [MIDDLE] * (len(middle) + 1)
    assert MIDDLE not in kinds[: len(kinds) - len(middle) - 1]


@settings(max_examples=200)
@given(TEXT, st.data())
def test_parts_are_encoded_as_if_apart(tokenizer: Tokenizer, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    ids = tokenizer.encode(text)
    # a window begins anywhere in a document
    skipped = data.draw(st.integers(0, min(3, len(ids))))
    kept = tokenizer.decode(ids[skipped:])
    if kept.decode(errors="replace").encode() != kept:
        return
    text = kept.decode()
    places = [0, *(min(cut, len(text)) for cut in cuts), len(text)]
    parts = encode_parts(kept, np.array(ids[skipped:]), tuple(len(text[:place].encode()) for place in places), tokenizer)
    assert parts == [tokenizer.encode(text[a:b]) for a, b in itertools.pairwise(places)]


def test_a_comment_stays_prose_where_its_tokens_change(tokenizer: Tokenizer) -> None:
    text = "x = compute(argument)\n# the remarkable explanation of it all\ny = another(call)\n" * 3
    ids = tokenizer.encode(text)
    ends = np.cumsum(tokenizer.byte_lengths[ids])
    comment = np.zeros(len(text), dtype=bool)
    for begin in (at for at in range(len(text)) if text[at] == "#"):
        comment[begin : text.index("\n", begin)] = True
    piece = piece_of(ids, (comment[begin:end].mean() >= 0.5 for begin, end in zip([0, *ends], ends, strict=False)))
    seen = set()
    for seed in range(60):
        new, kinds = (array.tolist() for array in fim_piece(piece, tokenizer, ALL_KINDS, np.random.default_rng(seed)))
        for kind in (CODE, PROSE):
            words = tokenizer.decode([id_ for id_, of in zip(new, kinds, strict=True) if of == kind]).decode()
            seen.add(kind)
            assert ("compute" in words or "call" in words) <= (kind == CODE)
            assert ("remarkable" in words) <= (kind == PROSE)
    assert seen == {CODE, PROSE}


@given(CODE_TEXT, st.integers(0, 2**32))
def test_a_piece_that_begins_inside_a_character_stays_as_it_is(tokenizer: Tokenizer, text: str, seed: int) -> None:
    broken = piece_of(tokenizer.encode("日" + text)[1:])
    if tokenizer.decode(broken.ids.tolist()).decode(errors="replace").startswith("\ufffd"):
        ids, kinds = fim_piece(broken, tokenizer, FimConfig(rate=1), np.random.default_rng(seed))
        assert np.array_equal(ids, broken.ids)
        assert not kinds.any()


def test_a_piece_without_room_stays_as_it_is(tokenizer: Tokenizer) -> None:
    piece = piece_of(tokenizer.encode("x = 1"))
    for seed in range(50):
        ids, _ = fim_piece(piece, tokenizer, FimConfig(rate=1), np.random.default_rng(seed))
        assert len(ids) <= len(piece.ids)
