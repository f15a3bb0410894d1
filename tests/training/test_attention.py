"""Attention in blocks is causal attention."""

import pytest
import torch
import torch.nn.functional as F

from training.attention import BLOCK, block_causal_attention


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_equals_torchs_own(length: int, heads: int, kv_heads: int) -> None:
    random = torch.Generator().manual_seed(0)
    shapes = (heads, kv_heads, kv_heads)
    inputs = [torch.randn(2, n, length, 16, generator=random, requires_grad=True) for n in shapes]
    weight = torch.randn(2, length, heads, 16, generator=random)
    ours, _ = block_causal_attention(torch.nn.Module(), *inputs, None, scaling=0.25)
    theirs = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=0.25, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((output * weight).sum(), inputs) for output in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
