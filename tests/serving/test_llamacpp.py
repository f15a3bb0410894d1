from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm import fim
from codelm.errors import UserError
from serving.llamacpp import LlamaCpp

CODE = "import os\n\n\ndef size(path):\n    return os.path.getsize(path)\n"


@pytest.fixture(scope="module")
def model(gguf: Path) -> Iterator[LlamaCpp]:
    model = LlamaCpp(gguf)
    yield model
    model.close()


def read(model: LlamaCpp, ids: list[int]) -> int:
    """Reads a prompt, with what the cache holds of it; returns how many tokens that were."""
    kept = model.reuse(ids)
    for start in range(kept, len(ids), model.chunk):
        model.read(ids[start : start + model.chunk])
    return kept


def test_what_the_file_says_of_itself(model: LlamaCpp) -> None:
    assert model.metadata.fim_order is fim.Order.SPM
    assert model.metadata.context_length == model.context_length > 0
    assert model.metadata.name


@settings(deadline=None)
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


def test_only_what_differs_is_read_again(model: LlamaCpp) -> None:
    ids = model.encode(CODE)
    model.forget()
    assert read(model, ids) == 0
    fresh = model.logits()
    assert read(model, ids) == len(ids) - 1, "the last one, for its logits"
    np.testing.assert_allclose(model.logits(), fresh, atol=0.05)
    other = [*ids[:8], *model.encode("something else")]
    assert read(model, other) == 8
    assert read(model, ids) == 8
    np.testing.assert_allclose(model.logits(), fresh, atol=0.05)


def test_too_much_to_read_is_an_error_and_empties_the_cache(model: LlamaCpp) -> None:
    ids = (model.encode(CODE) * model.context_length)[: model.context_length]
    read(model, ids)
    with pytest.raises(RuntimeError, match="could not read"):
        model.read(ids[:8])
    assert model.reuse(ids) == 0


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
