"""Where a stage is to be trained: a device of the table, or this machine."""

from typing import Literal, NamedTuple

from codelm.config.preset import Preset
from codelm.config.stages import HERE, Hardware
from training.plan import devices

BASE = 600_000_000
"""Bytes of a process on a CPU before a tensor is made: Python, torch and transformers."""
COMPILER = 400_000_000
"""Bytes that torch.compile leaves in it besides: nano, compiled, was estimated at 1.05 GB without them and took 1.46."""


class Machine(NamedTuple):
    """What a plan knows of one device."""

    name: str
    title: str
    kind: Literal["cpu", "cuda"]
    memory: int
    """bytes"""
    base: int
    """bytes that are taken before a tensor is made"""
    peak: float | None
    """FLOP/s; None: unknown, it has to be measured, as that of float32 has, which the table does not tell"""
    watts: float | None
    price: float | None
    """dollars an hour"""
    half: bool
    """whether autocast makes products in 2 bytes"""
    longest_blocks: int
    """tokens of the context up to which attention is computed in blocks"""


def machine_of(hardware: Hardware, preset: Preset) -> Machine:
    """The machine of a stage. Raises UserError if the table has no such device."""
    precision = preset.pretrain.engine.precision
    if hardware.device.lower() != HERE:
        device = devices.device(hardware.device)
        found = Machine(
            hardware.device, device.title, "cuda", device.memory, devices.RESERVE,
            device.tflops * 1e12 if precision != "no" else None, device.watts, device.price, precision != "no", 0,
        )  # fmt: skip
    else:
        found = this_machine(precision, preset.pretrain.engine.compile)
        if found.kind == "cpu":  # where ranks share what there is
            found = found._replace(memory=found.memory // hardware.devices)
    watts = hardware.watts if hardware.watts is not None else found.watts
    price = hardware.price_per_hour if hardware.price_per_hour is not None else found.price
    return found._replace(watts=watts, price=price)


def this_machine(precision: str, compiled: bool) -> Machine:
    """The GPU of this machine, or its processor."""
    import platform

    import psutil
    import torch

    from training.attention import LONGEST
    from training.engine import precision_of

    half = precision_of(precision) != "no"
    if not torch.cuda.is_available():
        title = f"{psutil.cpu_count(logical=False) or psutil.cpu_count()} cores, {platform.machine()}"
        base = BASE + (COMPILER if compiled else 0)
        return Machine(HERE, title, "cpu", psutil.virtual_memory().total, base, None, None, 0.0, half, LONGEST)
    properties, known = torch.cuda.get_device_properties(0), devices.this_gpu()
    peak, watts = known.tflops * 1e12 if known and half else None, known.watts if known else None
    return Machine(
        HERE, properties.name, "cuda", properties.total_memory, devices.RESERVE, peak, watts, 0.0, half, 0,
    )  # fmt: skip
