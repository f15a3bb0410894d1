"""What MFU is a share of."""

import pytest
import torch

from training import watch_peak
from training.plan.devices import device
from training.watch_peak import peak_of


def test_a_cpu_is_measured() -> None:
    peak = peak_of(torch.device("cpu"), torch.float32)
    assert 1e8 < peak.flops < 1e14
    assert peak.source == "measured here: float32 products of 1,024² matrices"


def test_a_gpu_that_is_known_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_peak, "this_gpu", lambda: device("H100"))
    assert peak_of(torch.device("cuda"), torch.bfloat16) == (989.4e12, "H100 data sheet")
