"""The backend of checkpoints, beside llama.cpp with the GGUF of the same one."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from codelm import fim
from codelm.config.model import ModelConfig
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import build_model, load_model, served
from serving.backend import Backend, Interrupt, InterruptedBatchError, Slice
from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.open_model import open_model
from serving.request import Completion
from serving.speculation import DraftModel
from serving.transformers_backend import Transformers

CODE = "import os\n\n\ndef size(path):\n    return os.path.getsize(path)\n"
CLOSE = {"atol": 1e-3}
"""Products of several rows at once round another way."""
TIE = 0.05
Complete = Callable[..., Completion]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[Transformers]:
    model = Transformers(checkpoint, device="cpu", dtype=torch.float32)
    yield model
    model.close()


@pytest.fixture
def empty(model: Transformers) -> Transformers:
    for sequence in range(model.sequences):
        model.keep(sequence, 0)
    return model


def read(model: Backend, ids: list[int], sequence: int = 0) -> npt.NDArray[np.float32]:
    """Appends tokens; the scores after the last."""
    for start in range(0, len(ids), 16):
        tokens = ids[start : start + 16]
        scores = model.decode([Slice(sequence, tokens, (len(tokens) - 1,))])
    return scores[0]


def test_it_says_of_itself_what_the_export_says(model: Transformers, gguf_f16: Path) -> None:
    exported = LlamaCpp(gguf_f16, sequences=1)
    assert model.metadata == exported.metadata
    assert model.metadata.bits_per_byte
    assert (model.fim, model.vocab_size) == (exported.fim, exported.vocab_size)
    assert (model.context_length, model.batch_tokens) == (exported.context_length, exported.batch_tokens)
    exported.close()


def test_tokens_are_those_of_the_export(model: Transformers, gguf_f16: Path) -> None:
    exported = LlamaCpp(gguf_f16, sequences=1)
    texts = (CODE, "", "\0", "\r\n\t", "größe 😀", *fim.SPECIAL_TOKENS)
    assert [model.encode(text) for text in texts] == [exported.encode(text) for text in texts]
    for token in range(model.vocab_size):
        assert model.is_special(token) == exported.is_special(token)
        assert model.piece(token) == exported.piece(token)
    exported.close()


def test_an_interrupted_batch_leaves_all_as_it_was(empty: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = empty.encode(CODE)
    fresh = read(empty, ids)
    empty.keep(0, 6)
    interrupt = Interrupt()
    layers: list[int] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def in_the_first_layer(*arguments: Any, **options: Any) -> Any:
        layers.append(len(layers))
        interrupt.set()
        return attention(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(InterruptedBatchError):
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", in_the_first_layer)
        empty.decode([Slice(0, ids[6:12])], interrupt)
    assert layers == [0]
    np.testing.assert_allclose(read(empty, ids[6:]), fresh, **CLOSE)


def test_scores_are_nearly_those_of_the_export(empty: Transformers, gguf_f16: Path) -> None:
    """It has half the digits."""
    exported = LlamaCpp(gguf_f16, sequences=1)
    ids = empty.encode(CODE)
    np.testing.assert_allclose(read(empty, ids), read(exported, ids), atol=0.05)
    exported.close()


def test_greedy_completions_are_those_of_the_export(
    checkpoint: Path, gguf_f16: Path, start: Callable[..., Engine], complete: Complete, same: Callable[..., bool]
) -> None:
    engines = [
        start(Transformers(checkpoint, device="cpu", dtype=torch.float32), mixture=False),
        start(LlamaCpp(gguf_f16), mixture=False),
    ]
    text = Path(json.__file__).read_text(encoding="utf-8")
    places = range(200, len(text), len(text) // 24)
    found = []
    for place in places:
        ours, theirs = (complete(engine, text[:place], text[place:], max_tokens=16) for engine in engines)
        found.append(same(ours, theirs))
    assert sum(found) > 0.8 * len(found), "they part at ties, which are few"


SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"architecture": "qwen3"},
    "mistral": {"sliding_window": 64},
    "qwen3 with a window": {"architecture": "qwen3", "sliding_window": 64},
    "yarn": {"context_length": 256, "rope_scaling": {"method": "yarn", "factor": 2.0, "original_context": 128}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_that_of_transformers(shape: str, tiny_preset: Preset, tokenizer_dir: Path, tmp_path: Path) -> None:
    """Of every shape that codelm trains, as far as it is served: a sliding window not beyond its length."""
    config = ModelConfig.model_validate(tiny_preset.model.model_dump() | {"context_length": 128} | SHAPES[shape])
    build_model(config, 0, 4).save_pretrained(tmp_path)
    shutil.copy(tokenizer_dir / "tokenizer.json", tmp_path)
    model = Transformers(tmp_path, device="cpu", dtype=torch.float32, sequences=2)
    assert model.context_length == served(config).context_length
    ids = model.encode(CODE * 9)[: model.context_length]
    with torch.no_grad():
        expected = load_model(tmp_path)(torch.tensor([ids])).logits[0].numpy()
    cut = len(ids) // 2
    first = model.decode([Slice(1, ids[:cut], (0, cut - 1))])
    second = model.decode([Slice(1, ids[cut:], (0, len(ids) - cut - 1))])
    np.testing.assert_allclose([*first, *second], expected[[0, cut - 1, cut, -1]], **CLOSE)


def test_a_sequence_goes_on_from_what_is_kept(empty: Transformers) -> None:
    ids = empty.encode(CODE)
    fresh = read(empty, ids)
    empty.keep(0, 5)
    np.testing.assert_allclose(read(empty, ids[5:]), fresh, **CLOSE)
    assert not np.allclose(read(empty, ids[:1]), fresh, **CLOSE)


def test_token_by_token_or_at_once_is_the_same(empty: Transformers) -> None:
    ids = empty.encode(CODE)
    one_by_one = [empty.decode([Slice(0, [id_], (0,))])[0] for id_ in ids]
    at_once = empty.decode([Slice(1, ids, range(len(ids)))])
    np.testing.assert_allclose(at_once, one_by_one, **CLOSE)


def test_sequences_do_not_see_each_other(empty: Transformers) -> None:
    """However they lie in the batch, whatever they held before, and each with its rows in its place."""
    texts = [CODE, "x = 1\n", "class A:\n    pass\n"]
    ids = [empty.encode(text) for text in texts]
    alone = []
    for tokens in ids:
        alone.append(empty.decode([Slice(0, tokens, (0, len(tokens) - 1))]))
        empty.keep(0, 0)
    read(empty, ids[0][:7], 4)
    read(empty, ids[1][:2], 0)
    batch = [
        Slice(4, ids[0][7:], (len(ids[0]) - 8,)),
        Slice(0, ids[1][2:], (len(ids[1]) - 3,)),
        Slice(3, ids[0][:4]),
        Slice(2, ids[2], (0, len(ids[2]) - 1)),
    ]
    np.testing.assert_allclose(empty.decode(batch), [alone[0][1], alone[1][1], *alone[2]], **CLOSE)


def test_what_is_shared_is_read_by_both_and_written_by_each(empty: Transformers) -> None:
    ids = empty.encode(CODE)
    whole = read(empty, ids)
    read(empty, empty.encode("something else"), 5)
    empty.share(0, 5, 8)
    np.testing.assert_allclose(read(empty, ids[8:], 5), whole, **CLOSE)
    empty.share(0, 5, 8)
    read(empty, empty.encode("other words"), 5)
    empty.keep(0, len(ids) - 1)
    np.testing.assert_allclose(read(empty, ids[-1:]), whole, **CLOSE)


def test_more_than_a_context_is_refused(empty: Transformers) -> None:
    ids = (empty.encode(CODE) * empty.context_length)[: empty.context_length]
    read(empty, ids)
    with pytest.raises(RuntimeError, match="full"):
        read(empty, ids[:1])
    with pytest.raises(ValueError, match="too large"):
        empty.decode([Slice(1, [1] * (empty.batch_tokens + 1))])
    empty.keep(0, 0)
    assert read(empty, ids[:4]).shape == (empty.vocab_size,)


@pytest.mark.parametrize("layer", [0, 1])
def test_after_memory_ran_out_it_goes_on(empty: Transformers, layer: int) -> None:
    """In the midst of a batch: some layers have written into the cache, and others have not."""
    ids = empty.encode(CODE)
    fresh = read(empty, ids)
    empty.keep(0, 5)
    read(empty, ids, 1)

    def run_out(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = empty._model.model.layers[layer].mlp.register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        empty.decode([Slice(0, empty.encode("other words")), Slice(1, [1])])
    hook.remove()
    np.testing.assert_allclose(read(empty, ids[5:]), fresh, **CLOSE)
    empty.keep(1, 0)
    np.testing.assert_allclose(read(empty, ids, 1), fresh, **CLOSE)


def test_an_engine_answers_after_a_failure(checkpoint: Path, start: Callable[..., Engine], complete: Complete) -> None:
    model = Transformers(checkpoint, device="cpu", dtype=torch.float32)
    engine = start(model)
    before = complete(engine, CODE)

    def run_out(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model._model.model.layers[1].register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        complete(engine, f"{CODE}\nx = ")
    problem = engine.problem()
    hook.remove()
    assert problem == "the model failed: CUDA out of memory"
    assert complete(engine, CODE).text == before.text
    assert engine.problem() is None


def test_many_requests_at_once_are_as_one_by_one(
    checkpoint: Path, start: Callable[..., Engine], same: Callable[..., bool]
) -> None:
    from serving.request import CompletionRequest

    lines = CODE.splitlines(keepends=True)
    requests = [CompletionRequest(prefix="".join(lines[:end]), suffix="\n", max_tokens=12) for end in range(1, 6)]
    alone, together = (start(Transformers(checkpoint, device="cpu", dtype=torch.float32), parallel) for parallel in (1, 5))
    one_by_one = [alone.submit(request).future.result(timeout=60) for request in requests]
    jobs = [together.submit(request) for request in requests]
    found = [same(one, job.future.result(timeout=60)) for one, job in zip(one_by_one, jobs, strict=True)]
    assert sum(found) >= 4


def test_the_export_drafts_for_its_checkpoint(
    checkpoint: Path, gguf: Path, start: Callable[..., Engine], complete: Complete, same: Callable[..., bool]
) -> None:
    model = Transformers(checkpoint, device="cpu", dtype=torch.float32)
    drafted = start(model, draft_model=DraftModel(open_model(gguf, sequences=2), model))
    plain = start(Transformers(checkpoint, device="cpu", dtype=torch.float32))
    assert same(complete(drafted, CODE, max_tokens=24), complete(plain, CODE, max_tokens=24))


def test_in_the_devices_own_type_it_writes_nearly_the_same(empty: Transformers, checkpoint: Path) -> None:
    narrow = Transformers(checkpoint, device="cpu", dtype=torch.bfloat16, sequences=2)
    ids = empty.encode(CODE)
    scores = read(narrow, ids)
    assert scores.dtype == np.float32
    assert narrow._kv.dtype is torch.bfloat16
    np.testing.assert_allclose(scores, read(empty, ids), atol=0.5)
    narrow.close()


@pytest.mark.parametrize(("load_in", "bits"), [("8bit", 8), ("4bit", 4)])
def test_in_fewer_bits(empty: Transformers, checkpoint: Path, load_in: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    narrow = open_model(checkpoint, sequences=2, device="cpu", load_in=load_in)
    assert isinstance(narrow, Transformers)
    layer = narrow._model.model.layers[0].mlp.up_proj
    weight = empty._model.model.layers[0].mlp.up_proj.weight
    assert layer.weight.numel() * layer.weight.element_size() * 8 == weight.numel() * bits
    ids = empty.encode(CODE)
    wide, rounded = read(empty, ids), read(narrow, ids)
    assert 0 < np.abs(wide - rounded).mean() < 0.6, "it is rounded, and not by much"
    np.testing.assert_allclose(read(narrow, ids[4:], 1) * 0 + rounded, rounded)
    narrow.close()


def test_sequences_are_as_many_as_memory_holds(checkpoint: Path) -> None:
    # 2 layers × keys and values × 2 heads × 64 numbers × 4 bytes × 512 tokens = 1 MB
    model = Transformers(checkpoint, kv_memory=3, device="cpu", dtype=torch.float32)
    assert model.sequences == 3
    model.close()
    with pytest.raises(UserError, match="0 MB of KV cache do not hold one context of"):
        Transformers(checkpoint, kv_memory=0, device="cpu")


def test_weights_that_change_while_they_are_served(
    trained: Path, checkpoint: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    own = tmp_path / "checkpoint-1"
    shutil.copytree(checkpoint, own)
    shutil.copy(tokenizer_dir / "tokenizer.json", own)
    model = Transformers(own, device="cpu", sequences=1)
    before = read(model, model.encode(CODE))
    assert model.problem() is None
    (own / "model.safetensors").unlink()
    assert model.problem() == f"{own / 'model.safetensors'} has been removed since it was loaded"
    model.keep(0, 0)
    np.testing.assert_array_equal(read(model, model.encode(CODE)), before)
    model.close()
    model.close()
