"""Cross-entropy of the next token without ever holding all logits."""

from typing import Any

import torch

CHUNK = 1024
"""Positions whose logits exist at once: 1,024 × 32,768 entries in bfloat16 are 64 MB."""
IGNORE = -100
KINDS = ("code", "prose", "middle")
"""What a label belongs to, by its number: code, a comment or docstring, the middle of a fill-in-the-middle example."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of token losses; the gradients of both inputs are computed chunk by chunk in the forward pass.

    The idea is that of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989): the loss is a scalar, so its
    backward pass only has to scale what the forward pass could already compute while the chunk's logits were there.
    torch's own `linear_cross_entropy` sums in the input's dtype, which in bfloat16 is off by 2 % (docs/decisions.md).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, kinds: torch.Tensor, z_loss: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        by_kind = hidden.new_zeros(len(KINDS), dtype=torch.float32)
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
            logprobs = logits - log_z[:, None]
            losses = -(logprobs * is_label).sum(-1)
            by_kind = by_kind + torch.stack([(losses * (kind == number)).sum() for number in range(len(KINDS))])
            penalty = penalty + (log_z.square() * kept).sum()
            # ∂loss/∂logits = softmax · (1 + 2 · z_loss · log Z) − one-hot, zero where the label is ignored
            scale = 1 + 2 * z_loss * log_z[:, None]
            grad = ((logprobs.exp() * scale - is_label.float()) * kept[:, None]).to(hidden.dtype)
            grad_hidden[rows] = grad @ narrow
            grad_weight += (grad.t() @ chunk).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(by_kind)
        return by_kind.sum() + z_loss * penalty, by_kind

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0], None, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, kinds: torch.Tensor, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of −log p(label) + z_loss · log² Z, a float32 scalar, and −log p summed by kind, (len(KINDS),), without gradient.

    hidden: (positions, width). weight: (vocabulary, width), the head. labels: (positions,), IGNORE where none counts.
    kinds: (positions,), the index in KINDS of each label. The products are computed in hidden's dtype, the softmax and the
    sums in float32.
    """
    return _ChunkedCrossEntropy.apply(hidden, weight, labels, kinds, z_loss)  # type: ignore[no-untyped-call]
