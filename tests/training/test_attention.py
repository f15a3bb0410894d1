"""Attention by blocks, by torch and by flash kernels is one attention: causal, in a window, within a document."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen as operators

from codelm.config.model import ModelConfig
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import build_model
from training import attention
from training.attention import BLOCK, choose_attention, documents_of, model_inputs, registered
from training.data import Sample
from training.engine import LossModel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def positions_of(*rows: list[int]) -> torch.Tensor:
    """Of rows of documents, by their lengths."""
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    positions: torch.Tensor | None,
    scale: float = 0.25,
) -> torch.Tensor:
    """By its definition: (batch, length, heads, head_dim)."""
    length = query.shape[2]
    place = torch.arange(length)
    seen = (place <= place[:, None]) & (place > place[:, None] - (window or length))
    if positions is not None:
        document = (positions == 0).cumsum(-1)
        seen = seen & (document[:, None, :, None] == document[:, None, None, :])
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    scores = (query @ key.mT) * scale
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def inputs(length: int, heads: int = 4, kv_heads: int = 2) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, n, length, 16, generator=random, requires_grad=True) for n in (heads, kv_heads, kv_heads)]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((output * weight).sum(), tensors) for output in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["blocks", "sdpa"])
@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_equals_the_definition(name: str, length: int, heads: int, kv_heads: int) -> None:
    tensors = inputs(length, heads, kv_heads)
    ours, _ = getattr(attention, name)(torch.nn.Module(), *tensors, None, scaling=0.25)
    assert_same(ours, reference(*tensors, None, None), tensors)


@pytest.mark.parametrize("name", ["blocks", "sdpa", "varlen", "flash_attention_2"])
@pytest.mark.parametrize("window", [None, 1, 100, BLOCK, 1000])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.usefixtures("kernels")
def test_windows_and_documents(name: str, window: int | None, apart: bool) -> None:
    length = 2 * BLOCK + 3
    tensors = inputs(length)
    positions = positions_of([1, 2, 140, 116], [length]) if apart else None
    documents, mask = None if positions is None else documents_of(name, positions), None
    if name == "sdpa" and documents is not None:
        mask = attention.visible(length, length, window, CPU, documents)
    options: dict[str, Any] = {"scaling": 0.25, "sliding_window": window, "documents": documents}
    ours, _ = getattr(attention, name)(torch.nn.Module(), *tensors, mask, **options)
    assert_same(ours, reference(*tensors, window, positions), tensors)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for a CPU where only a GPU has some, by their documented interfaces: of the operators behind torch's
    `varlen_attn`, and of flash-attn's function."""

    def forward(query: Any, key: Any, value: Any, ends: Any, same: Any, most: int, *rest: Any) -> tuple[torch.Tensor, ...]:
        _, causal, scale, window, grouped, *_ = rest
        assert ends.dtype == torch.int32
        assert torch.equal(ends, same)
        assert grouped
        assert causal == (window == [-1, 0])
        output = by_sequence(query, key, value, ends, most, scale, window)
        return output, query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float32), torch.zeros(2, dtype=torch.uint64)

    def backward(grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, ends: Any, same: Any, *rest: Any) -> Any:
        most, _, _, _, scale, window = rest

        def in_a_thread() -> tuple[
            torch.Tensor, ...
        ]:  # below an operator's autograd there is none, but each thread has its own
            tensors = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
            return torch.autograd.grad(by_sequence(*tensors, ends, most, scale, window), tensors, grad.detach())

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(in_a_thread).result()

    def flash_attn_varlen_func(
        query: Any, key: Any, value: Any, ends: Any, other: Any, most: int, same: int, dropout: float, **options: Any
    ) -> Any:
        assert options["causal"]
        return by_sequence(query, key, value, ends, most, options["softmax_scale"], options["window_size"])

    operators._varlen_attn.register_kernel("cpu")(forward)
    operators._varlen_attn_backward.register_kernel("cpu")(backward)
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(attention, "HALF", (torch.float32,))


def by_sequence(query: Any, key: Any, value: Any, ends: Any, most: int, scale: float, window: Any) -> torch.Tensor:
    """Of sequences laid end to end: query (tokens, heads, head_dim), key and value with fewer heads."""
    assert window[1] == 0
    outputs = []
    for first, last in pairwise(ends.tolist()):
        assert last - first <= most
        parts = [tensor[first:last].transpose(0, 1)[None] for tensor in (query, key, value)]
        outputs.append(reference(*parts, None if window[0] < 0 else window[0] + 1, None, scale)[0])
    return torch.cat(outputs)


def test_the_flash_kernel_of_torch_takes_our_arguments() -> None:
    """By its schema and its shapes; to compute, it wants a GPU."""
    with FakeTensorMode():
        query, key, value = (torch.empty(2, heads, 256, 128, dtype=torch.bfloat16, requires_grad=True) for heads in (6, 2, 2))
        documents = torch.empty(7, dtype=torch.int32)
        for options in ({}, {"documents": documents}, {"documents": documents, "sliding_window": 64}):
            output, _ = attention.varlen(torch.nn.Module(), query, key, value, None, 0.1, **options)  # type: ignore[arg-type]
            assert output.shape == (2, 256, 6, 128)
            output.float().sum().backward()
            assert [tensor.grad.shape for tensor in (query, key, value)] == [query.shape, key.shape, value.shape]  # type: ignore[union-attr]


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda row: sum(row) >= 12), min_size=1, max_size=3))
def test_where_documents_begin(rows: list[list[int]]) -> None:
    positions = torch.stack([positions_of(row)[0][:12] for row in rows])
    begins = documents_of("blocks", positions)
    ends = documents_of("varlen", positions)
    flat = (begins + torch.arange(len(rows))[:, None] * 12).flatten()
    assert ends.tolist() == [*sorted(set(flat.tolist())), 12 * len(rows)]
    assert (torch.arange(12) - begins).equal(positions)


def shape(preset: Preset, architecture: str, window: int | None) -> ModelConfig:
    changes = {"architecture": architecture, "sliding_window": window, "context_length": 96}
    return ModelConfig.model_validate(preset.model.model_dump() | changes)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("name", ["blocks", "sdpa", "varlen"])
@pytest.mark.usefixtures("kernels")
def test_documents_of_a_window_are_as_if_alone(tiny_preset: Preset, name: str, architecture: str, window: int | None) -> None:
    model = build_model(shape(tiny_preset, architecture, window), 0, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    lengths = [[1, 40, 55], [96], [30, 66]]
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 1024, (3, 96)))
    positions = positions_of(*lengths)
    model.set_attn_implementation(registered(name))
    with torch.no_grad():
        together = model(input_ids=ids, use_cache=False, **model_inputs(model, positions, documents_of(name, positions))).logits
        mixed = model(input_ids=ids, use_cache=False).logits
        model.set_attn_implementation("sdpa")  # transformers' own
        whole = model(input_ids=ids, use_cache=False).logits
        for row, parts in enumerate(lengths):
            start = 0
            for length in parts:
                alone = model(input_ids=ids[row : row + 1, start : start + length], use_cache=False).logits[0]
                torch.testing.assert_close(together[row, start : start + length], alone, atol=2e-3, rtol=1e-3)
                start += length
    torch.testing.assert_close(mixed, whole, atol=2e-3, rtol=1e-3)
    assert float((mixed - together)[2, 30:].abs().max()) > 0.1, "without the mask a document sees the one before it"


@pytest.mark.parametrize("name", ["blocks", "sdpa"])
def test_the_loss_of_a_window_is_that_of_its_documents(tiny_preset: Preset, name: str) -> None:
    model = build_model(shape(tiny_preset, "llama", None), 0, 1)
    model.set_attn_implementation(registered(name))
    loss_model = LossModel(model, tiny_preset.pretrain, compiled=None)
    random = np.random.default_rng(0)
    ids, labels = (torch.from_numpy(random.integers(0, 1024, (1, 96))) for _ in range(2))
    batch = Sample(ids=ids, labels=labels, kinds=torch.zeros_like(ids), positions=positions_of([1, 40, 55]))
    loss, _ = loss_model(batch, documents_of(name, batch.positions))
    parts = []
    for start, end in ((0, 1), (1, 41), (41, 96)):
        part = Sample(*(tensor[:, start:end] for tensor in batch))
        parts.append(loss_model(part)[0].item())
    assert loss.item() == pytest.approx(sum(parts), rel=1e-5)
    assert loss_model(batch)[0].item() != pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("name", ["blocks", "sdpa"])
def test_in_bfloat16_the_loss_is_almost_the_same(tiny_preset: Preset, name: str, architecture: str, apart: bool) -> None:
    model = build_model(shape(tiny_preset, architecture, None), 0, 1)
    model.set_attn_implementation(registered(name))
    loss_model = LossModel(model, tiny_preset.pretrain, compiled=None)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 1024, (1, 96)))
    batch = Sample(ids=ids, labels=ids, kinds=torch.zeros_like(ids), positions=positions_of([1, 40, 55]))
    documents = documents_of(name, batch.positions) if apart else None
    whole, _ = loss_model(batch, documents)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, _ = loss_model(batch, documents)
    narrow.backward()
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(whole.item(), rel=1e-3)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("name", ["blocks", "sdpa", "varlen"])
def test_generation_with_padding_and_cache(tiny_preset: Preset, name: str, architecture: str, window: int | None) -> None:
    model = build_model(shape(tiny_preset, architecture, window), 0, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    ids = torch.from_numpy(np.random.default_rng(0).integers(2, 1024, (2, 40)))
    mask = torch.ones_like(ids)
    mask[0, :25] = 0
    written = []
    for implementation in ("sdpa", registered(name)):
        model.set_attn_implementation(implementation)
        options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
        written.append(model.generate(input_ids=ids, attention_mask=mask, **options).tolist())
    assert written[0] == written[1]


def test_compiled_it_needs_no_mask(tiny_preset: Preset) -> None:
    model = build_model(shape(tiny_preset, "qwen3", None), 0, 1)
    model.set_attn_implementation(registered("sdpa"))
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.extend(node.kwargs for node in graph.graph.nodes if "scaled_dot_product_attention" in str(node.target))
        return graph.forward

    torch.compile(lambda ids: model.model(input_ids=ids, use_cache=False).last_hidden_state, backend=backend)(
        torch.zeros(1, 96, dtype=torch.long)
    )
    assert [call["is_causal"] for call in calls] == [True] * model.config.num_hidden_layers
    assert not any("attn_mask" in call for call in calls)


@pytest.mark.usefixtures("kernels")
def test_one_graph_for_any_number_of_documents(tiny_preset: Preset) -> None:
    model = build_model(shape(tiny_preset, "llama", None), 0, 1)
    model.set_attn_implementation(registered("varlen"))
    loss_model = LossModel(model, tiny_preset.pretrain, compiled=None)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    loss_model._loss = torch.compile(loss_model._eager_loss, backend=backend)
    ids = torch.zeros(2, 96, dtype=torch.long)
    for rows in ([[96], [96]], [[90, 6], [96]], [[1, 2, 93], [50, 46]], [[3] * 32, [96]]):
        batch = Sample(ids=ids, labels=ids, kinds=torch.zeros_like(ids), positions=positions_of(*rows))
        loss, _ = loss_model(batch, documents_of("varlen", batch.positions))
        loss.backward()
    assert len(graphs) == 1


CHOICES: list[tuple[dict[str, Any], str]] = [
    ({"device": CPU, "context": 512}, "blocks"),
    ({"device": CPU, "context": 512, "document_mask": True, "dropout": 0.1, "half": False}, "blocks"),
    ({"device": CPU, "context": 2048}, "sdpa"),
    ({"device": CPU, "context": 512, "requested": "sdpa"}, "sdpa"),
    ({"device": CUDA, "context": 2048}, "sdpa"),
    ({"device": CUDA, "context": 2048, "document_mask": True}, "varlen"),
    ({"device": CUDA, "context": 2048, "sliding_window": 512}, "varlen"),
    ({"device": CUDA, "context": 2048, "sliding_window": 2048}, "sdpa"),
    ({"device": CUDA, "context": 2048, "document_mask": True, "half": False}, "sdpa"),
    ({"device": CUDA, "context": 2048, "document_mask": True, "dropout": 0.1}, "sdpa"),
    ({"device": CUDA, "context": 2048, "requested": "varlen"}, "varlen"),
    ({"device": torch.device("mps"), "context": 2048, "document_mask": True}, "sdpa"),
]


@pytest.mark.parametrize(("asked", "name"), CHOICES)
def test_the_choice(asked: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_attention(**asked) == name


def test_older_gpus_have_no_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_attention(CUDA, 2048, document_mask=True) == "sdpa"
    with pytest.raises(UserError, match=r"varlen needs an NVIDIA GPU, A100, RTX 30 or newer; set engine\.attention to auto"):
        choose_attention(CUDA, 2048, requested="varlen")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"device": CUDA, "context": 512, "requested": "blocks"}, "blocks is for CPUs"),
        ({"device": CPU, "context": 2048, "requested": "blocks"}, "at most 1024 tokens"),
        ({"device": CPU, "context": 512, "requested": "varlen"}, "needs an NVIDIA GPU"),
        ({"device": CUDA, "context": 512, "requested": "varlen", "half": False}, r"bf16 or fp16 only; set engine\.precision"),
        ({"device": CUDA, "context": 512, "requested": "varlen", "dropout": 0.1}, r"has no dropout; set pretrain\.attention"),
        ({"device": CUDA, "context": 512, "requested": "flash_attention_2"}, "needs the package flash-attn; pip install"),
    ],
)
def test_what_cannot_work_is_refused(asked: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=reason):
        choose_attention(**asked)
