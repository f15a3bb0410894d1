"""Forward KL divergence from a teacher's likeliest tokens, mixed with cross-entropy, without ever holding all logits."""

from typing import Any, NamedTuple

import torch

from training.loss import CHUNK, IGNORE, KINDS


class Targets(NamedTuple):
    """What a teacher says of the next token at each position.

    top: (…, k) integers, its likeliest tokens. logprobs: (…, k + 1), their log-probabilities at the temperature of the
    distillation and, last, that of all other tokens together.
    """

    top: torch.Tensor
    logprobs: torch.Tensor


def targets_of(logits: torch.Tensor, k: int, temperature: float) -> Targets:
    """The targets in a teacher's logits, (…, vocabulary), with float32 log-probabilities."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    kept, top = logprobs.topk(k, dim=-1)
    rest = logprobs.scatter(-1, top, float("-inf")).logsumexp(-1, keepdim=True)
    return Targets(top, torch.cat([kept, rest], dim=-1))


class _ChunkedDistillation(torch.autograd.Function):
    """As the cross-entropy of `training.loss`: what the backward pass needs is computed chunk by chunk in the forward pass.

    The others' bucket has the student's own distribution within it, so with q the student's softmax and p the teacher's,
    ∂KL/∂z = (q − p̃) / T, where p̃ is p for a token that the teacher names and p(others) · q / q(others) for any other.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        kinds: torch.Tensor,
        top: torch.Tensor,
        logprobs: torch.Tensor,
        alpha: float,
        temperature: float,
        z_loss: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        by_part = hidden.new_zeros(len(KINDS) + 1, dtype=torch.float32)
        penalty = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        narrow = weight.to(hidden.dtype)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk, label, kind = hidden[rows], labels[rows], kinds[rows]
            kept = label != IGNORE
            is_label = label[:, None] == torch.arange(len(weight), device=label.device)
            logits = (chunk @ narrow.t()).float()
            log_z = logits.logsumexp(-1)
            logprob = logits - log_z[:, None]
            losses = -(logprob * is_label).sum(-1)
            penalty = penalty + (log_z.square() * kept).sum()

            # rounded to float16, the teacher's shares do not quite add up to 1
            teacher = logprobs[rows].float().log_softmax(-1)
            student = logprob if temperature == 1 else (logits / temperature).log_softmax(-1)
            named = top[rows].long()
            is_named = torch.zeros_like(logits, dtype=torch.bool).scatter(1, named, True)
            others = student.masked_fill(is_named, float("-inf")).logsumexp(-1, keepdim=True)
            terms = teacher.exp() * (teacher - torch.cat([student.gather(1, named), others], dim=1))
            # p · log p is 0 for p = 0
            divergences = temperature**2 * terms.masked_fill(teacher == float("-inf"), 0.0).sum(-1)
            share = (teacher[:, -1:] - others).masked_fill(teacher[:, -1:] == float("-inf"), float("-inf"))
            target = (student + share).exp().masked_fill(is_named, 0.0).scatter(1, named, teacher[:, :-1].exp())
            from_teacher = temperature * (student.exp() - target)

            sums = [(losses * (kind == number)).sum() for number in range(len(KINDS))]
            by_part = by_part + torch.stack([*sums, (divergences * kept).sum()])
            from_labels = logprob.exp() * (1 - alpha + 2 * z_loss * log_z[:, None]) - (1 - alpha) * is_label.float()
            grad = ((alpha * from_teacher + from_labels) * kept[:, None]).to(hidden.dtype)
            grad_hidden[rows] = grad @ narrow
            grad_weight += (grad.t() @ chunk).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(by_part)
        return alpha * by_part[-1] + (1 - alpha) * by_part[:-1].sum() + z_loss * penalty, by_part

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0], *[None] * 7


def chunked_distillation(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    kinds: torch.Tensor,
    targets: Targets,
    alpha: float,
    temperature: float,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of alpha · T² · KL + (1 − alpha) · −log p(label) + z_loss · log² Z, a float32 scalar, and its parts.

    The parts, without gradient: −log p(label) summed by kind and T² · KL summed, (len(KINDS) + 1,).

    hidden: (positions, width). weight: (vocabulary, width), the head. labels: (positions,), IGNORE where nothing is learned.
    kinds: (positions,), the index in KINDS of each label. targets: of these positions.
    """
    return _ChunkedDistillation.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, kinds, targets.top, targets.logprobs, alpha, temperature, z_loss
    )
