"""A checkpoint through torch and transformers, as it was trained: nothing is exported. On a CPU, or a GPU with CUDA."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from codelm.checkpoints import WEIGHTS, metadata_of, vocabulary_of
from codelm.errors import UserError
from codelm.models import bitsandbytes_config, fast_dtype, load_model
from serving.backend import (
    BATCH_OUTPUTS,
    BATCH_TOKENS,
    KV_MEMORY,
    MAX_SEQUENCES,
    Floats,
    Interrupt,
    InterruptedBatchError,
    Memory,
    Slice,
    sequences_within,
)
from serving.stamp import change, stamp
from serving.vocabulary import bare_metadata

ARCHITECTURES = ("llama", "mistral", "qwen3")
"""What codelm trains: their attention is known to need no more than `attend` does."""
BITS = {"8bit": 8, "4bit": 4}
ATTENTION = "codelm_serving"


class Part(NamedTuple):
    """A slice of the batch: where its tokens lie in the batch's row and in their sequence."""

    sequence: int
    row: slice
    places: slice
    mask: torch.Tensor | None
    """which keys each token sees, (tokens, keys) bool; None: all"""


class Reading(NamedTuple):
    """What attention must know of a batch."""

    parts: Sequence[Part]
    kv: torch.Tensor
    """(keys and values, layers, sequences, kv_heads, context_length, head_dim)"""
    interrupt: Interrupt | None


class Transformers:
    """A loaded model and the KV caches of its sequences (`serving.backend.Backend`). Not thread-safe: one thread owns it.

    All tokens of a batch go through the model as one row without padding, so that its matrix products are shared; only
    attention looks at each sequence for itself. The caches of all sequences are one tensor, made at the start: memory can run
    out in a batch, but no cache can be left half written, since what lies beyond a sequence's length is never looked at.
    """

    def __init__(
        self,
        checkpoint: Path,
        threads: int | None = None,
        kv_memory: int = KV_MEMORY,
        sequences: int = MAX_SEQUENCES,
        *,
        device: str | None = None,
        load_in: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """checkpoint: a folder in Hugging Face layout, whose tokenizer lies beside it or in its run.

        threads, kv_memory, sequences: as of `serving.llamacpp.LlamaCpp`. device: cpu, cuda or cuda:N, by default cuda if it is
        there. load_in: 8bit or 4bit, by bitsandbytes. dtype: by default the one that is fastest on the device.

        Raises UserError if the checkpoint is damaged, has no tokenizer or is of another kind, if the device or bitsandbytes is
        not there or cannot hold or compute the model, or if kv_memory cannot hold one sequence.
        """
        self._device = device_of(device)
        self.device = str(self._device)
        self.together = True
        self._dtype = dtype or fast_dtype(self._device)
        self._threads_before = torch.get_num_threads()
        self._threads = threads or psutil.cpu_count(logical=False) or 1
        self._path = checkpoint / WEIGHTS
        self._stamp = stamp(self._path)
        self._tokenizer = vocabulary_of(checkpoint)
        self.fim = self._tokenizer.fim
        quantization = bitsandbytes_config(BITS[load_in], self._dtype, f"--load-in {load_in}") if load_in else None
        try:
            self._model: Any = load_model(checkpoint, self._dtype, self._device, quantization).requires_grad_(False).eval()
            config = self._model.config
            self.vocab_size: int = config.vocab_size
            self._check(checkpoint)
            self.metadata = metadata_of(checkpoint, self._tokenizer) or bare_metadata(
                checkpoint.resolve().name, self._tokenizer.sha256, reach(config)
            )
            self.context_length = self.metadata.context_length
            self.batch_tokens = min(BATCH_TOKENS, self.context_length)
            self.batch_outputs = BATCH_OUTPUTS
            shape = (2, config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
            bytes_per_token = torch.Size(shape).numel() * self._dtype.itemsize
            self.sequences = min(sequences, sequences_within(kv_memory, bytes_per_token, self.context_length))
            caches = (*shape[:2], self.sequences, shape[2], self.context_length, shape[3])
            self._kv: torch.Tensor = torch.empty(caches, dtype=self._dtype, device=self._device)
            self._takes = Memory(self._model.get_memory_footprint(), self._kv.nbytes)
            self._lengths = [0] * self.sequences
            self._model.set_attn_implementation(ATTENTION)
            self._try(load_in)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            fix = "free some of it, give a smaller --kv-memory, --load-in 8bit or 4bit, or --device cpu"
            raise UserError(f"{checkpoint} does not fit on {self._device} ({reason})", fix) from None

    def _check(self, checkpoint: Path) -> None:
        """Raises UserError if it is not a model of a kind that codelm trains."""
        if self._model.config.model_type not in ARCHITECTURES:
            raise UserError(
                f"{checkpoint} is a {self._model.config.model_type}, not one of {', '.join(ARCHITECTURES)}",
                "serve it with vLLM, and codelm in front of it with --upstream",
            )
        if self.vocab_size != self._tokenizer.vocab_size:
            raise UserError(
                f"{checkpoint} knows {self.vocab_size:,} tokens, its tokenizer {self._tokenizer.vocab_size:,}",
                "put the tokenizer.json beside it that it was trained with",
            )

    def _try(self, load_in: str | None) -> None:
        """Computes a token. Raises UserError if bitsandbytes or the GPU cannot."""
        try:
            self.decode([Slice(0, [self.fim.endoftext], (0,))])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # its kernels are of many kinds, and so is what they raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if load_in:
                message = f"bitsandbytes cannot compute in {load_in} on {self._device} ({reason})"
                raise UserError(message, "leave --load-in off, or export a GGUF: `codelm export`") from error
            if self._device.type == "cuda":
                raise UserError(f"torch cannot compute on {self._device} ({reason})", "give --device cpu") from error
            raise
        self.keep(0, 0)

    def memory(self) -> Memory:
        """What the weights take, and the caches."""
        return self._takes

    def encode(self, text: str) -> list[int]:
        """The text's token ids; the texts of special tokens in it are plain text."""
        return self._tokenizer.encode(text)

    def piece(self, token: int) -> bytes:
        """The token's bytes, maybe not whole characters; none for a special token."""
        return self._tokenizer.token_bytes[token]

    def is_special(self, token: int) -> bool:
        """Whether the token stands for no text."""
        return not self._tokenizer.token_bytes[token]

    @torch.inference_mode()
    def decode(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> Floats:
        """Appends all slices, each of another sequence; the scores asked for, (outputs, vocab), slice after slice.

        Raises InterruptedBatchError if the interrupt was set before the last layer, RuntimeError if torch cannot
        (torch.OutOfMemoryError is one), ValueError if the batch is too large. The sequences then hold what they held before.
        """
        tokens, outputs = sum(len(one.tokens) for one in batch), sum(len(one.outputs) for one in batch)
        if tokens > self.batch_tokens or outputs > self.batch_outputs:
            raise ValueError(f"a batch of {tokens} tokens with {outputs} outputs is too large")
        self._use_threads(writing=tokens == len(batch))
        parts: list[Part] = []
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for one in batch:
            part = self._part(one, len(ids))
            parts.append(part)
            wanted += [part.row.start + index for index in one.outputs]
            ids += one.tokens
            positions += range(part.places.start, part.places.stop)
        hidden = self._model.model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            reading=Reading(parts, self._kv, interrupt),
        ).last_hidden_state[0, wanted]
        scores: Floats = self._model.lm_head(hidden).float().cpu().numpy()
        if self._device.type == "cuda":  # whoever measures how long a batch takes: without scores nothing has waited for it
            torch.cuda.synchronize(self._device)
        for part in parts:
            self._lengths[part.sequence] = part.places.stop
        return scores

    def _part(self, one: Slice, at: int) -> Part:
        """at: where the slice begins in the batch's row. Raises RuntimeError if its sequence has no room for it."""
        start, count = self._lengths[one.sequence], len(one.tokens)
        end = start + count
        if end > self.context_length:
            raise RuntimeError(f"sequence {one.sequence} is full")
        mask = torch.ones(count, end, dtype=torch.bool, device=self._device).tril(start) if count > 1 else None
        return Part(one.sequence, slice(at, at + count), slice(start, end), mask)

    def _use_threads(self, writing: bool) -> None:
        """On a CPU, half of the threads write, as in llama.cpp. torch has one number for the whole process."""
        threads = max(1, self._threads // 2) if writing else self._threads
        if self._device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def keep(self, sequence: int, length: int) -> None:
        """Leaves the first `length` tokens of a sequence: 0 empties it, after a failure too."""
        self._lengths[sequence] = min(length, self._lengths[sequence])

    def share(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` tokens of `source` all that `target` holds."""
        self._kv[:, :, target, :, :length] = self._kv[:, :, source, :, :length]
        self._lengths[target] = length

    def problem(self) -> str | None:
        """Says so if the weights are others by now: what is served is what was loaded."""
        return change(self._path, self._stamp)

    def close(self) -> None:
        """Frees the memory; the object is of no use afterwards. May be called again."""
        self._model, self._kv = None, torch.empty(0)
        if self._device.type == "cpu":
            torch.set_num_threads(self._threads_before)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def reach(config: Any) -> int:
    """The context to serve: within its sliding window a model sees the same with it and without it, and `attend` knows none."""
    return min(config.max_position_embeddings, getattr(config, "sliding_window", None) or config.max_position_embeddings)


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raises UserError if it is not there, or if codelm does not know it."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is none that codelm knows", "give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(
            f"--device {name} is not there: torch sees {count} CUDA devices",
            "give --device cpu, or look at the driver (`codelm doctor`) and whether torch was installed for CUDA",
        )
    return device


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    *,
    reading: Reading,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a batch's tokens to those of their own sequences, whose keys and values are put into the cache.

    As transformers calls it, once a layer. query: (1, heads, tokens, head_dim). key, value: (1, kv_heads, tokens, head_dim).
    Returns (1, tokens, heads, head_dim) and no weights. Raises InterruptedBatchError.
    """
    if reading.interrupt is not None and reading.interrupt.is_set:
        raise InterruptedBatchError
    heads, kv_heads = query.shape[1], key.shape[1]
    found = []
    for part in reading.parts:
        keys, values = reading.kv[:, module.layer_idx, part.sequence]
        keys[:, part.places], values[:, part.places] = key[0, :, part.row], value[0, :, part.row]
        # the heads of a group are further queries of its keys, which so need not be repeated
        queries = query[0, :, part.row].reshape(1, kv_heads, -1, query.shape[-1])
        mask = None if part.mask is None else part.mask.repeat(heads // kv_heads, 1)
        seen = slice(part.places.stop)
        output = F.scaled_dot_product_attention(queries, keys[None, :, seen], values[None, :, seen], mask, scale=scaling)
        found.append(output.reshape(heads, -1, query.shape[-1]))
    return torch.cat(found, dim=1).transpose(0, 1)[None], None


# under a name that transformers knows no mask for, it makes none
AttentionInterface.register(ATTENTION, attend)
