from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.healing import MOST_TOKENS, Healer
from serving.backend import Slice
from serving.llamacpp import LlamaCpp

PIECES = [
    b"",
    *(bytes([byte]) for byte in range(256)),
    b"re",
    b"ret",
    b"return",
    b"turn",
    b" return",
    b"    ",
    b"\n\n",
    b"\xff\xff",
]
RETURN, SPACES = PIECES.index(b"return"), PIECES.index(b"    ")
CODE = (
    "import os\n\n\ndef size(path, default=None):\n    if default:\n        return default\n    return os.path.getsize(path)\n"
)


def ids(*pieces: bytes) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


@pytest.fixture(scope="module")
def small() -> Healer:
    return Healer(PIECES)


@pytest.fixture(scope="module")
def model(gguf: Path) -> Iterator[LlamaCpp]:
    model = LlamaCpp(gguf)
    yield model
    model.close()


@pytest.fixture(scope="module")
def healer(model: LlamaCpp) -> Healer:
    return Healer([b"" if model.is_special(id_) else model.piece(id_) for id_ in range(model.vocab_size)])


@pytest.mark.parametrize(
    ("prompt", "removed"),
    [
        ([b"x", b"re"], b"re"),
        ([b"x", b"ret", b"u"], b"retu"),
        ([b"x", b"re", b"t"], b"ret"),
        ([b"x", b"return"], b""),
        ([b"x", b"("], b""),
        ([b":", b"\n", b"    "], b"    "),
        ([b":", b"\n", b" ", b"re"], b" re"),
        ([b":", b"\n\n"], b""),
        ([b"re", b"\n"], b""),
        ([b"x", b"\xff"], b"\xff"),
        ([b""], b""),
        ([b"re", b"", b"t"], b"t"),
        ([b"r", b"e", b"t", b"u"], b"retu"),
        ([], b""),
    ],
)
def test_back_up(small: Healer, prompt: list[bytes], removed: bytes) -> None:
    kept, taken = small.back_up(ids(*prompt))
    assert taken == removed
    assert b"".join(prompt) == b"".join(PIECES[id_] for id_ in kept) + taken
    assert kept == ids(*prompt)[: len(kept)]


def test_allowed_begins_with_the_rest_or_is_its_beginning(small: Healer) -> None:
    assert set(small.allowed(b"retu")) == set(ids(b"return", b"ret", b"re", b"r"))
    assert set(small.allowed(b"re")) == set(ids(b"re", b"ret", b"return", b"r"))
    assert set(small.allowed(b"\xff")) == set(ids(b"\xff", b"\xff\xff"))
    assert set(small.allowed(b"   ")) == set(ids(b" ", b"    "))


def test_consume(small: Healer) -> None:
    (ret,) = ids(b"ret")
    assert small.consume(b"retu", ret) == b"u"
    assert small.consume(b"retu", RETURN) == b""
    assert small.beyond(b"retu", RETURN) == b"rn"
    assert small.beyond(b"retu", ret) == b""
    with pytest.raises(ValueError, match="does not spell"):
        small.consume(b"retu", SPACES)


def test_a_vocabulary_without_single_bytes_says_so() -> None:
    with pytest.raises(ValueError, match="no token spells"):
        Healer([b"ab", b"c"]).allowed(b"x")


def test_the_longest_of_real_tokens(model: LlamaCpp, healer: Healer) -> None:
    """Half of a word of the vocabulary is taken back, and the word is allowed."""
    long = [id_ for id_ in range(model.vocab_size) if healer.extends(model.piece(id_)[:-1]) and len(model.piece(id_)) > 5]
    healed = 0
    for id_ in long[:200]:
        piece = model.piece(id_)
        half = piece[: len(piece) // 2].decode("utf-8", "ignore")
        prompt = model.encode("x = 1\n" + half)
        _, removed = healer.back_up(prompt)
        if removed and piece.startswith(removed):
            healed += 1
            assert id_ in healer.allowed(removed)
    assert healed > len(long[:200]) // 2


@given(data=st.data(), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.just(""))
def test_what_is_written_always_spells_what_was_typed(data: st.DataObject, model: LlamaCpp, healer: Healer, text: str) -> None:
    """Whatever the model prefers: here, chance does."""
    prompt = model.encode(CODE[: data.draw(st.integers(0, len(CODE)))] + text)
    kept, removed = healer.back_up(prompt)
    assert kept == prompt[: len(kept)]
    assert len(prompt) - len(kept) <= MOST_TOKENS
    assert b"\n" not in removed
    written, remaining, after = b"", removed, b""
    for _ in range(len(removed)):
        if not remaining:
            break
        token = int(data.draw(st.sampled_from(list(healer.allowed(remaining)))))
        after = healer.beyond(remaining, token)
        remaining = healer.consume(remaining, token)
        written += model.piece(token)
    assert remaining == b""
    assert written == removed + after


@given(cursor=st.integers(0, len(CODE)))
def test_a_model_that_writes_the_natural_tokens_is_not_led_astray(model: LlamaCpp, healer: Healer, cursor: int) -> None:
    """The cursor stands between two tokens of the text, and the model knows the text: it writes the same, healed or not."""
    natural = model.encode(CODE)
    count = min(cursor, len(natural))
    kept, remaining = healer.back_up(natural[:count])
    text = b""
    for token in natural[len(kept) :]:
        if remaining:
            assert token in healer.allowed(remaining)
            text += healer.beyond(remaining, token)
            remaining = healer.consume(remaining, token)
        else:
            text += model.piece(token)
    assert remaining == b""
    assert text == b"".join(map(model.piece, natural[count:]))


@pytest.mark.parametrize("size", range(1, 6))
def test_a_greedy_model_completes_a_word_of_its_vocabulary(model: LlamaCpp, healer: Healer, size: int) -> None:
    """The real model, asked in the middle of `return`: what it writes spells what was typed."""
    prompt = model.encode(CODE + "\n\ndef f(x):\n    " + "return"[:size])
    kept, remaining = healer.back_up(prompt)
    model.keep(0, 0)
    for start in range(0, len(kept), model.batch_tokens):
        tokens = kept[start : start + model.batch_tokens]
        scores = model.decode([Slice(0, tokens, (len(tokens) - 1,))])[0]
    written, removed = b"", remaining
    while remaining:
        allowed = healer.allowed(remaining)
        token = int(allowed[np.argmax(scores[allowed])])
        remaining = healer.consume(remaining, token)
        written += model.piece(token)
        scores = model.decode([Slice(0, [token], (0,))])[0]
    assert written.startswith(removed)
