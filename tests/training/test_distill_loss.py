"""The chunked distillation loss is the plain one, by autograd in float64."""

import pytest
import torch
import torch.nn.functional as F

from training.distill_loss import Targets, chunked_distillation, targets_of
from training.loss import CHUNK, IGNORE, KINDS, chunked_cross_entropy

WIDTH, VOCABULARY = 32, 101


def inputs(positions: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul(0.3).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (positions,), generator=generator)
    labels[::7] = IGNORE
    teacher = torch.randn(positions, VOCABULARY, generator=generator).mul(2)
    return hidden, weight, labels, teacher


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor,
    k: int,
    alpha: float,
    temperature: float,
    z_loss: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, cross-entropy, divergence: both distributions are summed up into buckets."""
    logits = hidden.double() @ weight.double().t()
    kept = labels != IGNORE
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    penalty = (logits.logsumexp(-1).square() * kept).sum()
    ranks = teacher.argsort(descending=True).argsort()
    shares = [
        torch.zeros(len(hidden), min(k + 1, VOCABULARY), dtype=torch.float64).scatter_add(1, ranks.clamp(max=k), part)
        for part in ((teacher.double() / temperature).softmax(-1), (logits / temperature).softmax(-1))
    ]
    divergence = (shares[0] * (shares[0] / shares[1]).log()).sum(-1)[kept].sum()
    divergence = temperature**2 * divergence
    return alpha * divergence + (1 - alpha) * entropy + z_loss * penalty, entropy, divergence


@pytest.mark.parametrize("positions", [1, 5, CHUNK + 60])
@pytest.mark.parametrize(
    ("k", "alpha", "temperature", "z_loss"),
    [(8, 0.5, 1.0, 0.0), (8, 0.3, 2.0, 1e-2), (1, 1.0, 0.5, 0.0), (VOCABULARY, 0.7, 1.5, 0.0), (VOCABULARY - 1, 1.0, 1.0, 0.0)],
)
def test_value_and_gradients(positions: int, k: int, alpha: float, temperature: float, z_loss: float) -> None:
    hidden, weight, labels, teacher = inputs(positions)
    loss, parts = chunked_distillation(
        hidden, weight, labels, torch.zeros_like(labels), targets_of(teacher, k, temperature), alpha, temperature, z_loss
    )
    (loss / 37).backward()  # what is upstream scales the gradients
    assert hidden.grad is not None
    assert weight.grad is not None
    found = [loss.detach(), parts[: len(KINDS)].sum(), parts[-1], hidden.grad, weight.grad]

    hidden, weight, _, _ = inputs(positions)
    expected_loss, entropy, divergence = plain(hidden, weight, labels, teacher, k, alpha, temperature, z_loss)
    (expected_loss / 37).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    expected = [expected_loss.detach(), entropy.detach(), divergence.detach(), hidden.grad, weight.grad]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm().clamp(min=1e-3)


def test_targets_add_up_and_know_the_rest() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3
    targets = targets_of(logits, 5, 2.0)
    p = (logits.double() / 2).softmax(-1)
    assert torch.equal(targets.top, p.topk(5).indices)
    assert torch.allclose(targets.logprobs[:, :5].double().exp(), p.topk(5).values)
    assert torch.allclose(targets.logprobs.double().exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert targets_of(logits, 50, 1.0).logprobs[:, -1].tolist() == [float("-inf")] * 3


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn() -> None:
    hidden, weight, labels, _ = inputs(40)
    targets = targets_of(hidden.detach() @ weight.detach().t(), 8, 1.0)
    loss, parts = chunked_distillation(hidden, weight, labels, torch.zeros_like(labels), targets, 1.0, 1.0)
    loss.backward()
    assert abs(parts[-1].item()) < 1e-4
    assert hidden.grad is not None
    assert hidden.grad.abs().max() < 1e-5


@pytest.mark.parametrize("sure", [30.0, 300.0])
def test_a_teacher_that_is_sure_gives_no_nan(sure: float) -> None:
    hidden, weight, labels, teacher = inputs(20)
    teacher[:, 3] = sure  # everything else is e^-sure, which float16 and float32 cannot tell from 0
    targets = Targets(*(part.half() if part.is_floating_point() else part for part in targets_of(teacher, 4, 1.0)))
    loss, _ = chunked_distillation(hidden, weight, labels, torch.zeros_like(labels), targets, 1.0, 1.0)
    loss.backward()
    expected = F.cross_entropy((hidden @ weight.t())[labels != IGNORE], torch.full((17,), 3), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_float16_targets_are_close_enough() -> None:
    hidden, weight, labels, teacher = inputs(200)
    exact = targets_of(teacher, 16, 1.0)
    kinds = torch.zeros_like(labels)
    _, parts = chunked_distillation(hidden, weight, labels, kinds, exact, 0.5, 1.0)
    _, rounded = chunked_distillation(hidden, weight, labels, kinds, Targets(exact.top.int(), exact.logprobs.half()), 0.5, 1.0)
    assert rounded[-1].item() == pytest.approx(parts[-1].item(), rel=1e-3)


def test_without_a_teacher_it_is_the_cross_entropy() -> None:
    hidden, weight, labels, teacher = inputs(CHUNK + 50)
    kinds = torch.arange(len(labels)) % len(KINDS)
    loss, parts = chunked_distillation(hidden, weight, labels, kinds, targets_of(teacher, 8, 1.0), 0.0, 1.0, 1e-2)
    expected, by_kind = chunked_cross_entropy(hidden, weight, labels, kinds, 1e-2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(parts[:-1], by_kind)


def test_narrow_products() -> None:
    hidden, weight, labels, teacher = inputs(300, torch.bfloat16)
    loss, _ = chunked_distillation(hidden, weight, labels, torch.zeros_like(labels), targets_of(teacher, 8, 1.0), 0.5, 1.0)
    loss.backward()
    expected = plain(hidden.detach(), weight.detach(), labels, teacher, 8, 0.5, 1.0, 0.0)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
