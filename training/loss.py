"""Cross-entropy of the next token without ever holding all logits."""

from typing import Any

import torch
import torch.nn.functional as F

CHUNK = 1024
"""Positions whose logits exist at once: 1,024 × 32,768 entries in bfloat16 are 64 MB."""
IGNORE = -100


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of token losses; the gradients of both inputs are computed chunk by chunk in the forward pass.

    The idea is that of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989): the loss is a scalar, so its
    backward pass only has to scale what the forward pass could already compute while the chunk's logits were there.
    torch's own `linear_cross_entropy` sums in the input's dtype, which in bfloat16 is off by 2 % (docs/decisions.md).
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        narrow = weight.to(hidden.dtype)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk, label = hidden[rows], labels[rows]
            kept = label != IGNORE
            is_label = label[:, None] == torch.arange(len(weight), device=label.device)
            logprobs = F.log_softmax((chunk @ narrow.t()).float(), dim=-1)
            total = total - (logprobs * is_label).sum()
            # ∂loss/∂logits = softmax − one-hot, zero where the label is ignored
            grad = ((logprobs.exp() - is_label.float()) * kept[:, None]).to(hidden.dtype)
            grad_hidden[rows] = grad @ narrow
            grad_weight += (grad.t() @ chunk).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0], None


def chunked_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of −log p(label), a float32 scalar.

    hidden: (positions, width). weight: (vocabulary, width), the head. labels: (positions,), IGNORE where none counts.
    The products are computed in hidden's dtype, the softmax and the sum in float32.
    """
    return _ChunkedCrossEntropy.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
