"""What a machine can compute in."""

import torch

from codelm.models import fast_dtype

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What a precision computes products in, if not in float32."""


def precision_of(name: str) -> str:
    """Accelerate's name of a precision; "auto" is bf16 where the processor has instructions for it, else float32."""
    if name != "auto":
        return name
    dtype = fast_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return next((name for name, known in DTYPES.items() if known is dtype), "no")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch's autocast to a precision; weights stay in float32."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
