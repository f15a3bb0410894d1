import ctypes
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm import fim
from codelm.errors import UserError
from serving import llamacpp
from serving.backend import Interrupt, InterruptedBatchError, Slice
from serving.llamacpp import LlamaCpp

CODE = "import os\n\n\ndef size(path):\n    return os.path.getsize(path)\n"


said: list[str] = []


@llama_cpp.llama_log_callback
def keep_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """All that llama.cpp says. It is called until another one takes its place, so it must stay."""
    said.append(text.decode())


@pytest.fixture(scope="module")
def model(gguf: Path) -> Iterator[LlamaCpp]:
    model = LlamaCpp(gguf)
    yield model
    model.close()


@pytest.fixture
def empty(model: LlamaCpp) -> LlamaCpp:
    for sequence in range(model.sequences):
        model.keep(sequence, 0)
    return model


def read(model: LlamaCpp, ids: list[int], sequence: int = 0) -> npt.NDArray[np.float32]:
    """Appends tokens; the scores after the last."""
    for start in range(0, len(ids), 16):
        tokens = ids[start : start + 16]
        scores = model.decode([Slice(sequence, tokens, (len(tokens) - 1,))])
    return scores[0]


def test_what_the_file_says_of_itself(model: LlamaCpp) -> None:
    assert model.metadata.fim_order is fim.Order.SPM
    assert model.metadata.context_length == model.context_length > 0
    assert model.metadata.name


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([CODE, "\0", "\r\n\t", "a" * 5000]))
def test_text_survives_tokenising(model: LlamaCpp, text: str) -> None:
    assert b"".join(map(model.piece, model.encode(text))) == text.encode()


@pytest.mark.parametrize("token", fim.SPECIAL_TOKENS)
def test_the_text_of_a_special_token_is_plain_text(model: LlamaCpp, token: str) -> None:
    ids = model.encode(f"x = '{token}'")
    assert not any(model.is_special(id_) for id_ in ids)
    assert b"".join(map(model.piece, ids)) == f"x = '{token}'".encode()


def test_special_tokens_have_no_text(model: LlamaCpp) -> None:
    assert model.is_special(model.fim.endoftext)
    assert model.piece(model.fim.fim_middle) == b""


def test_a_sequence_goes_on_from_what_is_kept(empty: LlamaCpp) -> None:
    ids = empty.encode(CODE)
    fresh = read(empty, ids)
    empty.keep(0, 5)
    np.testing.assert_allclose(read(empty, ids[5:]), fresh, atol=0.05)
    assert not np.allclose(read(empty, ids[:1]), fresh, atol=0.05)


def test_sequences_do_not_see_each_other(empty: LlamaCpp) -> None:
    """However they lie in the batch, and each with its rows in its place."""
    texts = [CODE, "x = 1\n", "class A:\n    pass\n"]
    alone = []
    for text in texts:
        alone.append(read(empty, empty.encode(text)))
        empty.keep(0, 0)
    ids = [empty.encode(text) for text in texts]
    batch = [Slice(sequence, ids[index], (len(ids[index]) - 1,)) for index, sequence in enumerate((4, 0, 2))]
    np.testing.assert_allclose(empty.decode(batch), alone, atol=0.05)


def test_rows_of_every_position_that_was_asked_for(empty: LlamaCpp) -> None:
    ids = empty.encode(CODE)[:12]
    one_by_one = [empty.decode([Slice(0, [id_], (0,))])[0] for id_ in ids]
    scores = empty.decode([Slice(1, ids, (2, 3, 11)), Slice(3, ids[:3])])
    assert scores.shape == (3, empty.vocab_size)
    np.testing.assert_allclose(scores, [one_by_one[index] for index in (2, 3, 11)], atol=0.05)


def test_what_is_shared_is_read_by_both_and_written_by_each(empty: LlamaCpp) -> None:
    ids = empty.encode(CODE)
    whole = read(empty, ids)
    read(empty, empty.encode("something else"), 5)
    empty.share(0, 5, 8)
    np.testing.assert_allclose(read(empty, ids[8:], 5), whole, atol=0.05)
    empty.keep(5, 0)
    empty.share(0, 5, 8)
    read(empty, empty.encode("other words"), 5)
    empty.keep(0, len(ids) - 1)
    np.testing.assert_allclose(read(empty, ids[-1:]), whole, atol=0.05)


def test_caches_take_no_more_than_they_may(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp rounds a context up, and says how large its caches are."""
    monkeypatch.setattr(llamacpp, "_keep_log", keep_log)
    told = llamacpp.metadata_of
    monkeypatch.setattr(llamacpp, "metadata_of", lambda *of: told(*of).model_copy(update={"context_length": 300}))
    model = LlamaCpp(gguf, kv_memory=4)
    (buffer,) = re.findall(r"KV buffer size = +([\d.]+) MiB", "".join(said))
    model.close()
    assert 1 < model.sequences < 32
    assert model.memory().contexts == float(buffer) * 2**20 <= 4 * 2**20


def test_an_interrupted_batch_leaves_all_as_it_was(empty: LlamaCpp) -> None:
    ids = empty.encode(CODE)
    fresh = read(empty, ids)
    empty.keep(0, 6)
    interrupt = Interrupt()
    interrupt.set()
    with pytest.raises(InterruptedBatchError):
        empty.decode([Slice(0, ids[6:12]), Slice(1, ids[:5], (4,))], interrupt)
    np.testing.assert_allclose(read(empty, ids[6:]), fresh, atol=0.05)
    np.testing.assert_allclose(read(empty, ids, 1), fresh, atol=0.05)
    empty.keep(0, 0)
    empty.decode([Slice(0, ids[:5])])  # without an interrupt nothing ends it
    interrupt.clear()
    empty.decode([Slice(0, ids[5:10])], interrupt)
    np.testing.assert_allclose(read(empty, ids[10:]), fresh, atol=0.05)


def test_wherever_a_batch_is_interrupted(empty: LlamaCpp) -> None:
    """It has been read by all or by none of its sequences."""
    ids = (empty.encode(CODE) * 9)[:100]
    fresh = read(empty, ids)
    begun = 0
    started = time.perf_counter()
    empty.decode([Slice(1, ids[:60]), Slice(2, ids[:60])])
    for delay in np.linspace(0, 1, 60) * (time.perf_counter() - started):
        for sequence in range(3):
            empty.keep(sequence, 10 if sequence == 0 else 0)
        interrupt = Interrupt()
        timer = threading.Timer(delay, interrupt.set)
        timer.start()
        early = interrupt.is_set
        try:
            empty.decode([Slice(0, ids[10:60]), Slice(1, ids[:60]), Slice(2, ids[:60])], interrupt)
            at = [60, 60, 60]
        except InterruptedBatchError:
            begun += not early
            at = [10, 0, 0]
        timer.join()
        for sequence, length in enumerate(at):
            np.testing.assert_allclose(read(empty, ids[length:], sequence), fresh, atol=0.05)
    assert begun, "it is looked at while the batch is read"


def test_more_than_a_context_is_refused(empty: LlamaCpp) -> None:
    ids = (empty.encode(CODE) * empty.context_length)[: empty.context_length]
    read(empty, ids)
    with pytest.raises(RuntimeError, match="full"):
        read(empty, ids[:1])
    with pytest.raises(ValueError, match="too large"):
        empty.decode([Slice(1, [1] * (empty.batch_tokens + 1))])
    empty.keep(0, 0)
    assert read(empty, ids[:4]).shape == (empty.vocab_size,)


def test_sequences_are_as_many_as_memory_holds(gguf: Path) -> None:
    # 2 layers × keys and values × 2 heads × 64 numbers × 2 bytes × 512 tokens = 0.5 MB
    model = LlamaCpp(gguf, kv_memory=3)
    assert model.sequences == 3 * 2**20 // (2 * 2 * 2 * 64 * 2 * model.context_length)
    model.close()
    with pytest.raises(UserError, match="0 MB of KV cache do not hold one context of"):
        LlamaCpp(gguf, kv_memory=0)


def test_a_file_that_changes_while_it_is_served(gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(gguf, path)
    model = LlamaCpp(path)
    before = read(model, model.encode(CODE))
    assert model.problem() is None
    path.open("r+b").truncate(1000)
    assert model.problem() == f"{path} has changed since it was loaded"
    model.keep(0, 0)
    np.testing.assert_array_equal(read(model, model.encode(CODE)), before)
    path.unlink()
    assert model.problem() == f"{path} has been removed since it was loaded"
    model.close()


def broken(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_files_that_are_no_models(gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    cases = {
        tmp_path / "nowhere.gguf": "does not exist",
        tmp_path: "cannot be read",
        broken(tmp_path / "text.gguf", b"hello"): "is not a GGUF file",
        broken(tmp_path / "empty.gguf", b""): "is not a GGUF file",
        broken(tmp_path / "half.gguf", data[: len(data) // 2]): r"cannot be loaded \(.+\)",
        broken(tmp_path / "head.gguf", data[:100]): r"cannot be loaded \(.+\)",
        broken(tmp_path / "foreign.gguf", data.replace(b"codelm.", b"codexx.")): "was not made by `codelm export`",
        broken(tmp_path / "key.gguf", data.replace(b"codelm.context_length", b"codelm.context_lxngth")): "context_length",
        broken(tmp_path / "fim.gguf", data.replace(b"<|fim_middle|>", b"<|fim_muddle|>")): "has no <|fim_middle|>".replace(
            "|", r"\|"
        ),
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            LlamaCpp(path)
        assert str(path) in caught.value.message
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [4, 8, 16, 24, 40, 100, 1000])
def test_a_damaged_head_never_crashes(gguf: Path, tmp_path: Path, position: int) -> None:
    data = bytearray(gguf.read_bytes())
    data[position : position + 4] = b"\xff\xff\xff\x7f"
    try:
        LlamaCpp(broken(tmp_path / "damaged.gguf", bytes(data))).close()
    except UserError as error:
        assert "\n" not in str(error)
