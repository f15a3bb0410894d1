"""What a plan assumes of devices that are not here: peak, memory, power, price, and how much of the peak a training reaches."""

import difflib
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import Field

from codelm.config.load import load_yaml
from codelm.config.settings import Settings
from codelm.errors import UserError

RESERVE = 1_500_000_000
"""Bytes of a GPU's memory that no tensor gets: CUDA's context, workspaces of cuBLAS, buffers of NCCL, fragmentation."""


class Device(Settings):
    """One kind of device."""

    title: str = Field(description="its full name")
    tflops: float = Field(gt=0, description="peak, dense bfloat16, 10¹² FLOP/s")
    memory: int = Field(gt=0, description="bytes")
    watts: float = Field(gt=0, description="limit of the board")
    price: float = Field(ge=0, description="dollars an hour")
    cuda: str = Field(description="the name that CUDA gives it; others with a longer name have other peaks")
    source: str = Field(description="where peak, memory and watts stand")


class Utilisation(Settings):
    """How much of the peak trainings reach."""

    parameters: int = Field(gt=0, description="of models up to this size")
    mfu: float = Field(gt=0, le=1, description="share of the peak")
    source: str = Field(description="whose figure it is")


class Checkpointing(Settings):
    """What gradient checkpointing costs."""

    factor: float = Field(gt=0, le=1, description="of the utilisation without it")
    source: str = Field(description="why")


class Devices(Settings):
    """devices.yaml."""

    devices: dict[str, Device] = Field(description="by name")
    mfu: list[Utilisation] = Field(description="ascending by size")
    checkpointing: Checkpointing = Field(description="its cost")

    def utilisation(self, parameters: int) -> Utilisation:
        """What is assumed of a model of this size."""
        return next((one for one in self.mfu if parameters <= one.parameters), self.mfu[-1])


@cache
def table() -> Devices:
    """The table."""
    with resources.as_file(resources.files("training.plan") / "devices.yaml") as path:
        return load_yaml(Path(path), Devices)


def device(name: str) -> Device:
    """A device by its name, whatever the case. Raises UserError if the table has none."""
    known = {one.lower(): one for one in table().devices}
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {known[close[0]]}?" if close else f"known: here, {', '.join(known.values())}"
        raise UserError(f"no device {name!r} in the table", hint)
    return table().devices[known[name.lower()]]


def this_gpu() -> Device | None:
    """The table's entry for the GPU of this machine, with the memory that it has; None if there is none, or another."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    for one in table().devices.values():
        if properties.name == one.cuda:
            return one.model_copy(update={"memory": properties.total_memory})
    return None
