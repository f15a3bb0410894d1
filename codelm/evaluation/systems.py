"""What an evaluation compares: anything that writes a line at a place, and may know how likely a text is."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.places import Place
from codelm.models import load_model, weights_sha256
from codelm.tokenizer import Tokenizer

Bits = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Bits and bytes of each window of held-out text, (windows,) each."""


class Written(NamedTuple):
    """A line for each place, and how many milliseconds each took."""

    lines: list[str]
    milliseconds: list[float]

    @classmethod
    def together(cls, lines: list[str], seconds: float) -> Self:
        """Lines that were written in one go: each took its share of the time."""
        return cls(lines, [seconds * 1000 / max(1, len(lines))] * len(lines))


class System(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def identity(self) -> str:
        """What its scores depend on besides the places: if that has not changed, they have not."""

    def write(self, places: Sequence[Place]) -> Written:
        """What it writes at each place, up to the end of the line."""

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        """How well it knows held-out text, by windows of some `max_tokens` tokens in all; None if it knows no probabilities."""


class TrainedModel:
    """A checkpoint in Hugging Face layout, in torch, many places at once."""

    def __init__(self, name: str, checkpoint: Path, tokenizer: Path) -> None:
        """tokenizer: its tokenizer.json. Raises UserError if there is no such checkpoint or tokenizer."""
        self.name = name
        self.checkpoint = checkpoint
        self.tokenizer = Tokenizer(tokenizer)
        self.identity = f"{weights_sha256(checkpoint)} {self.tokenizer.sha256}"

    @property
    def context(self) -> int:
        """Tokens that it was trained to see. Raises UserError if the checkpoint is damaged."""
        context: int = self.model.config.max_position_embeddings
        return context

    @cached_property
    def model(self) -> Any:
        """The loaded model, on the GPU if there is one."""
        import torch

        return load_model(self.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")

    def write(self, places: Sequence[Place]) -> Written:
        """Greedy lines, with fill-in-the-middle prompts."""
        from codelm.evaluation.generate import write_lines

        model = self.model
        started = time.monotonic()
        lines = write_lines(model, self.tokenizer, places)
        return Written.together(lines, time.monotonic() - started)

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        """Left to right, in windows of the model's context."""
        from codelm.evaluation.bits_per_byte import by_window, nats_of, windows_of

        shard = held_out.shard(self.tokenizer)
        windows = windows_of(shard, self.tokenizer, self.context, max_tokens)
        return by_window(nats_of(self.model, windows), windows, self.tokenizer)
