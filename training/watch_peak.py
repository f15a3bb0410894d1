"""What MFU is a share of: what the device can do at most."""

import time
from typing import NamedTuple

import torch

from training.plan.devices import this_gpu

MEASURED_SECONDS = 0.2


class Peak(NamedTuple):
    """What the device computes at most."""

    flops: float
    """per second"""
    source: str


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """Of matrix products of a dtype: by the data sheet, or measured."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and (sheet := this_gpu()):
        return Peak(sheet.tflops * 1e12, sheet.source)
    size = 1024 if device.type == "cpu" else 8192
    name = str(dtype).removeprefix("torch.")
    return Peak(measured(device, dtype, size), f"measured here: {name} products of {size:,}² matrices")


def measured(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOPs per second of the fastest of some products of two square matrices."""
    one, other = (torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype) for _ in range(2))
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < MEASURED_SECONDS or fastest == float("inf"):
        start = time.perf_counter()
        torch.mm(one, other)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest
