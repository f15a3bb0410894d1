"""What the scheduler speaks to: a model at the level of tokens, with several sequences, whatever computes it."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.fim import FimTokens
from serving.request import CompletionRequest

Floats = npt.NDArray[np.float32]

BATCH_TOKENS = 256
BATCH_OUTPUTS = 64
"""Rows of scores: of as many drafted tokens as are ever tried at once, and no more, for they are wide."""
MAX_SEQUENCES = 32
KV_MEMORY = 256
"""Megabytes for the KV caches."""


@dataclass(frozen=True)
class Slice:
    """Tokens to append to a sequence, and which of them (ascending indices) want the scores of the token to come after."""

    sequence: int
    tokens: Sequence[int]
    outputs: Sequence[int] = ()


class Memory(NamedTuple):
    """Bytes: of the weights, and of what comes with each engine over them, such as KV caches."""

    weights: int
    contexts: int


class Interrupt:
    """Ends a decode() that is under way. Any thread may set it; the one that decodes clears it before it looks for work.

    memory: two bytes, the first of which is 0 until it is set and the second always, for code without the interpreter's lock.
    """

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(2)

    def set(self) -> None:
        self.memory[0] = b"\1"

    def clear(self) -> None:
        self.memory[0] = b"\0"

    @property
    def is_set(self) -> bool:
        return self.memory[0] != b"\0"


class InterruptedBatchError(Exception):
    """A batch was given up: all sequences hold what they held before it."""


class Backend(Protocol):
    """A loaded model with the KV caches of several sequences. Not thread-safe: one thread owns it.

    context_length: tokens that a sequence holds. sequences: how many there are, numbered from 0, all empty at first.
    batch_tokens, batch_outputs: what one call of decode() takes at most. device: what computes, as torch names it (cuda:1).
    together: whether tokens of several sequences take less time in one batch than one after the other.
    """

    metadata: BundleMetadata
    fim: FimTokens
    vocab_size: int
    context_length: int
    sequences: int
    batch_tokens: int
    batch_outputs: int
    device: str
    together: bool

    def encode(self, text: str) -> list[int]:
        """The text's token ids; the texts of special tokens in it are plain text."""

    def piece(self, token: int) -> bytes:
        """The token's bytes, maybe not whole characters; none for a special token."""

    def is_special(self, token: int) -> bool:
        """Whether the token stands for no text."""

    def decode(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> Floats:
        """Appends all slices, each of another sequence; the scores asked for, (outputs, vocab), slice after slice.

        Raises InterruptedBatchError if it could be ended early because the interrupt was set. Raises another exception if it
        fails: what the batch's sequences hold is not known then.
        """

    def keep(self, sequence: int, length: int) -> None:
        """Leaves the first `length` tokens of a sequence: 0 empties it, after a failure too."""

    def share(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` tokens of `source` all that `target` holds."""

    def memory(self) -> Memory:
        """What it takes; after close() what it took. From any thread."""

    def problem(self) -> str | None:
        """What is wrong though it still works, for people to read: a model file that has changed, a peer that is away."""

    def close(self) -> None:
        """Frees the memory; the object is of no use afterwards. May be called again."""


def sequences_within(megabytes: int, bytes_per_token: int, context_length: int) -> int:
    """How many whole contexts a KV cache of that size holds. Raises UserError if it is none."""
    sequence = bytes_per_token * context_length
    if count := megabytes * 2**20 // sequence:
        return count
    raise UserError(
        f"{megabytes} MB of KV cache do not hold one context of {context_length} tokens, which takes"
        f" {-(-sequence // 2**20)} MB",
        "allow more with --kv-memory",
    )


class Mixing(Protocol):
    """Another opinion about the next tokens of one request."""

    def mix(self, logprobs: Floats, context: Sequence[int]) -> Floats:
        """New log-probabilities, (vocab,), from the model's. context: all token ids so far, of prompt and text."""

    def draft(self, context: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may come after the context; none if there is no good guess."""


class Mixer(Protocol):
    """What has an opinion about every request, such as an n-gram model of the project."""

    def begin(self, request: CompletionRequest, prompt_ids: Sequence[int]) -> Mixing:
        """The opinion for one request, whose prompt is given as it will be read."""
