"""The chunked loss is the plain one."""

import pytest
import torch
import torch.nn.functional as F

from training.loss import CHUNK, IGNORE, KINDS, chunked_cross_entropy

WIDTH, VOCABULARY = 32, 101


def inputs(positions: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul(0.3).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (positions,), generator=generator)
    labels[::7] = IGNORE
    return hidden, weight, labels


def ours(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, z_loss: float = 0.0) -> torch.Tensor:
    return chunked_cross_entropy(hidden, weight, labels, torch.zeros_like(labels), z_loss)[0]


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, z_loss: float = 0.0) -> torch.Tensor:
    logits = hidden.float() @ weight.t()
    penalty = (logits.logsumexp(-1).square() * (labels != IGNORE)).sum()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") + z_loss * penalty


@pytest.mark.parametrize("positions", [1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 300])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_value_and_gradients(positions: int, dtype: torch.dtype, tolerance: float, z_loss: float) -> None:
    scale = 1 / 37  # what is upstream scales the gradients
    answers = []
    for function in (ours, plain):
        hidden, weight, labels = inputs(positions, dtype)
        loss = function(hidden, weight, labels, z_loss)
        (loss * scale).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        assert loss.dtype == weight.grad.dtype == torch.float32
        answers.append((loss.detach(), hidden.grad.float(), weight.grad))
    for value, expected in zip(*answers, strict=True):
        size = expected.norm().clamp(min=1e-6)
        assert (value - expected).norm() <= tolerance * size


def test_the_sum_is_exact_enough_in_bfloat16() -> None:
    hidden, weight, labels = inputs(4 * CHUNK, torch.bfloat16)
    assert ours(hidden, weight, labels).item() == pytest.approx(plain(hidden, weight, labels).item(), rel=1e-3)


def test_ignored_labels_teach_nothing() -> None:
    hidden, weight, labels = inputs(50, torch.float32)
    labels[:] = IGNORE
    loss = ours(hidden, weight, labels)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_the_parts_of_the_loss() -> None:
    hidden, weight, labels = inputs(CHUNK + 50, torch.float32)
    kinds = torch.arange(len(labels)) % len(KINDS)
    _, by_kind = chunked_cross_entropy(hidden, weight, labels, kinds)
    for kind in range(len(KINDS)):
        only = torch.where(kinds == kind, labels, IGNORE)
        assert by_kind[kind].item() == pytest.approx(plain(hidden, weight, only).item(), rel=1e-5)
