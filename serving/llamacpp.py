"""llama.cpp through its C functions: one model, one context, several sequences."""

import collections
import ctypes
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import psutil

from codelm.errors import UserError
from codelm.export.bundle import BASE_KEY, BundleMetadata
from codelm.fim import FimTokens
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
from serving.threads import Threads

MAGIC = b"GGUF"

ABORTED = 2
"""What llama_decode returns when it was interrupted."""
_is_set = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
"""Whether an interrupt is set: C's strlen, since one that is not is an empty string. It is asked after each of some hundred
operations of a batch, where a function of Python's would wait for the interpreter's lock."""
_never = llama_cpp.ggml_abort_callback()

AMX = b"AMX_INT8 = 1"
"""What llama.cpp says of itself when it was built with AMX kernels, which need their weights in another order."""
CELLS = 256
"""A cache holds a multiple of so many tokens."""
LOG_ERROR = 4
_log: collections.deque[str] = collections.deque(maxlen=100)


@llama_cpp.llama_log_callback
def _keep_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp is silent; what it says of errors is kept for the message of ours."""
    if level == LOG_ERROR:
        _log.append(text.decode("utf-8", "replace").strip())


class Weights:
    """A loaded file with contexts over it, the last of which frees it. Safe to use from every thread."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the file cannot be loaded."""
        self.stamp = stamp(path)
        self.model: Any = load(path)
        self._users = 0
        self._lock = threading.Lock()

    def take(self) -> "Weights":
        """For one more context."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """To be called once for each take()."""
        with self._lock:
            self._users -= 1
            if not self._users:
                llama_cpp.llama_model_free(self.model)


class LlamaCpp:
    """A loaded model and the KV caches of its sequences (`serving.backend.Backend`). Not thread-safe: one thread owns it.

    On a CPU each sequence has a cache of its own: attention over one that all share looks at the cells of all, which made a
    token four times as slow beside seven other documents. So a batch of several is computed one after the other, unless their
    numbers are neighbours and they have as many tokens. On a GPU they share one, and share() copies nothing.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        kv_memory: int = KV_MEMORY,
        sequences: int = MAX_SEQUENCES,
        *,
        adapter: Path | None = None,
        beside: "LlamaCpp | None" = None,
    ) -> None:
        """threads: at most, by default one a physical core; fewer are used where those are busy (`serving.threads`).

        kv_memory: megabytes for `sequences` of them, or as many as fit in there. adapter: a LoRA adapter (`codelm train lora`)
        to lay over the model. beside: one of the same file that is open, whose weights serve this one too: adapters and caches
        belong to a context, and what is cached under one adapter is wrong under another.

        Not two at once of the same weights: llama.cpp keeps a list of a model's adapters, which is not guarded.

        Raises UserError if the file is missing, broken, or was not made by `codelm export`, if the adapter is none of this
        model, or if kv_memory cannot hold one sequence.
        """
        self._context: Any = None
        self._batch: Any = None
        self._adapter: Any = None
        self._weights: Weights | None = (beside._weights if beside and beside._weights else Weights(path)).take()
        self._model: Any = self._weights.model
        self._stamps = {path: self._weights.stamp}
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        try:
            self.metadata = metadata_of(self._model, path)
            self.fim = fim_tokens_of(self._vocab, path)
            self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
            self.context_length = self.metadata.context_length
            self.batch_tokens = min(BATCH_TOKENS, self.context_length)
            self.batch_outputs = BATCH_OUTPUTS
            cells = -(-self.context_length // CELLS) * CELLS
            self.sequences = min(sequences, sequences_within(kv_memory, _kv_bytes_per_token(self._model), cells))
            self._unified: bool = llama_cpp.llama_supports_gpu_offload()
            self.together = self._unified
            self.device = ("mps" if sys.platform == "darwin" else "cuda") if self._unified else "cpu"
            if adapter:
                self._stamps[adapter] = stamp(adapter)
                self._adapter = load_adapter(self._model, adapter, self.metadata)
            self._threads = Threads(threads or psutil.cpu_count(logical=False) or 1)
            self._context = self._new_context()
        except BaseException:
            self.close()
            raise
        self._batch = llama_cpp.llama_batch_init(self.batch_tokens, 0, 1)
        self._memory = llama_cpp.llama_get_memory(self._context)
        caches = _kv_bytes_per_token(self._model) * cells * self.sequences
        self._takes = Memory(int(llama_cpp.llama_model_size(self._model)), caches)
        self._lengths = [0] * self.sequences
        self._pieces: dict[int, bytes] = {}
        try:
            self._take_memory()
        except BaseException:
            self.close()
            raise

    def _take_memory(self) -> None:
        """A batch with as many outputs as there may ever be: rows of scores are wide, and what llama.cpp computes them in is
        taken from the system at their first use, which would be at any time.
        """
        count = min(self.batch_outputs, self.batch_tokens)
        self.decode([Slice(0, [self.fim.endoftext] * count, range(count))])
        self.keep(0, 0)

    def _new_context(self) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = self.context_length * self.sequences
        parameters.n_seq_max = self.sequences
        parameters.kv_unified = self._unified
        parameters.n_batch = parameters.n_ubatch = self.batch_tokens
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = self.batch_outputs
        if not llama_cpp.llama_supports_gpu_offload():
            # helps long prompts a little on a CPU and hurts every token written
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            needed = f"{self.sequences} sequences of {self.context_length} tokens"
            raise UserError(
                f"{self.metadata.name}: no memory for {needed}{_reason()}", "free some, or give a smaller --kv-memory"
            )
        if self._adapter:
            one = llama_cpp.llama_adapter_lora_p_ctypes * 1
            llama_cpp.llama_set_adapters_lora(context, one(self._adapter), 1, (ctypes.c_float * 1)(1.0))
        return context

    def memory(self) -> Memory:
        """The weights are one for all that were opened beside each other; caches take theirs whether they are full or not."""
        return self._takes

    def encode(self, text: str) -> list[int]:
        """The text's token ids; the texts of special tokens in it are plain text."""
        return tokenize(self._vocab, text, special=False)

    def piece(self, token: int) -> bytes:
        """The token's bytes, maybe not whole characters; none for a special token."""
        if token not in self._pieces:
            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
                if size >= 0:
                    break
                room = -size
            self._pieces[token] = buffer.raw[:size]
        return self._pieces[token]

    def is_special(self, token: int) -> bool:
        """Whether the token stands for no text."""
        return is_special(self._vocab, token)

    def decode(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> Floats:
        """Appends all slices, each of another sequence; the scores asked for, (outputs, vocab), slice after slice.

        Raises InterruptedBatchError if the interrupt was set in time; on a GPU it is not looked at. Raises RuntimeError if
        llama.cpp cannot, ValueError if the batch is too large for it.
        """
        tokens, outputs = sum(len(one.tokens) for one in batch), sum(len(one.outputs) for one in batch)
        if tokens > self.batch_tokens or outputs > self.batch_outputs:
            raise ValueError(f"a batch of {tokens} tokens with {outputs} outputs is too large")
        for one in batch:
            # llama.cpp would go on in a shared cache, past what the model was made for
            if self._lengths[one.sequence] + len(one.tokens) > self.context_length:
                raise RuntimeError(f"sequence {one.sequence} is full")
        at = 0
        rows = []
        for one in sorted(batch, key=lambda one: one.sequence):  # neighbours by number go through the model together
            start = self._lengths[one.sequence]
            wanted = set(one.outputs)
            for index, token in enumerate(one.tokens):
                self._batch.token[at] = token
                self._batch.pos[at] = start + index
                self._batch.n_seq_id[at] = 1
                self._batch.seq_id[at][0] = one.sequence
                self._batch.logits[at] = index in wanted
                if index in wanted:
                    rows.append((one.sequence, at))
                at += 1
        self._batch.n_tokens = at
        _log.clear()
        callback, memory = (_is_set, ctypes.addressof(interrupt.memory)) if interrupt else (_never, None)
        llama_cpp.llama_set_abort_callback(self._context, callback, memory)
        threads = self._threads.choose(tokens)
        llama_cpp.llama_set_n_threads(self._context, threads, threads)
        started = time.perf_counter()
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status == ABORTED:
            for one in batch:  # parts of the batch may have been read
                self.keep(one.sequence, self._lengths[one.sequence])
            raise InterruptedBatchError
        if status != 0:
            raise RuntimeError(f"llama.cpp could not read {at} tokens: status {status}{_reason()}")
        self._threads.note(tokens, threads, (time.perf_counter() - started) * 1000)
        for one in batch:
            self._lengths[one.sequence] += len(one.tokens)
        places: dict[int, list[int]] = {}
        for sequence, place in rows:
            places.setdefault(sequence, []).append(place)
        scores = np.empty((outputs, self.vocab_size), dtype=np.float32)
        for row, place in enumerate(place for one in batch for place in places.get(one.sequence, ())):
            pointer = llama_cpp.llama_get_logits_ith(self._context, place)
            scores[row] = np.ctypeslib.as_array(pointer, (self.vocab_size,))
        return scores

    def keep(self, sequence: int, length: int) -> None:
        """Leaves the first `length` tokens of a sequence: 0 empties it, after a failure too."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise RuntimeError(f"llama.cpp could not cut sequence {sequence} to {length} tokens")
        self._lengths[sequence] = min(length, self._lengths[sequence])

    def share(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` tokens of `source` all that `target` holds."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        # caches of their own are copied whole
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, length if self._unified else -1)
        llama_cpp.llama_memory_seq_rm(self._memory, target, length, -1)
        self._lengths[target] = length

    def problem(self) -> str | None:
        """Says so if the file is another one by now: what is served is what was loaded."""
        return next(filter(None, (change(path, before) for path, before in self._stamps.items())), None)

    def close(self) -> None:
        """Frees the memory; the object is of no use afterwards. May be called again."""
        if self._batch:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._adapter:
            llama_cpp.llama_adapter_lora_free(self._adapter)
            self._adapter = None
        if self._weights:
            self._weights.release()
            self._weights = None


def tokenize(vocab: Any, text: str, *, special: bool) -> list[int]:
    """A text's token ids. special: whether the texts of special tokens in it are those tokens, or plain text."""
    data = text.encode()
    room = len(data) + 1  # a token is a byte at least
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, room, False, special)
    return list(ids[:count])


def is_special(vocab: Any, token: int) -> bool:
    """Whether a token stands for no text."""
    return bool(llama_cpp.llama_vocab_is_control(vocab, token) or llama_cpp.llama_vocab_is_eog(vocab, token))


def fim_tokens_of(vocab: Any, path: Path) -> FimTokens:
    """The special tokens of a loaded file. Raises UserError if it lacks some."""

    def token_to_id(text: str) -> int | None:
        ids = tokenize(vocab, text, special=True)
        return ids[0] if len(ids) == 1 and is_special(vocab, ids[0]) else None

    try:
        return FimTokens.lookup(token_to_id)
    except ValueError as error:
        raise UserError(f"{path} cannot fill in the middle: {error}", "give a file made by `codelm export`") from None


def load(path: Path, *, vocab_only: bool = False) -> Any:
    """llama.cpp's model of a file, or no more of it than vocabulary and metadata. Raises UserError if it cannot be loaded."""
    check_magic(path)
    llama_cpp.llama_log_set(_keep_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    _log.clear()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only, parameters.check_tensors = vocab_only, not vocab_only
    # a mapped file that somebody cuts short kills the process that reads it
    parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    # GCC drops the writes to the tile configuration from these kernels, and the first batch of a model ends the process:
    # ggml-org/llama.cpp issue 20824, pull request 26954
    parameters.use_extra_bufts = AMX not in llama_cpp.llama_print_system_info()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise UserError(f"{path} cannot be loaded{_reason()}", "the file may be cut short: export or copy it again")
    return model


def check_magic(path: Path, fix: str = "give the path of a .gguf file, which `codelm export` makes, or a run") -> None:
    """Raises UserError if the file is not there, cannot be read, or is no GGUF. fix: what to do then."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", fix) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", fix) from None
    if magic != MAGIC:
        raise UserError(f"{path} is not a GGUF file", fix)


def load_adapter(model: Any, path: Path, base: BundleMetadata) -> Any:
    """llama.cpp's adapter of a file, for a loaded model; to be loaded before the contexts that use it are made.

    base: what the model's bundle says. Raises UserError if the file is no adapter, or one of another model: its layers do not
    fit, or it says that it was trained upon other weights.
    """
    check_magic(path, "give an adapter.gguf, which `codelm train lora` writes into RUN/lora when it is done")
    _log.clear()
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    fix = "give the adapter.gguf of a `codelm train lora` upon this very model"
    if not adapter:
        raise UserError(f"{path} cannot be laid over {base.name}{_reason()}", fix)
    buffer = ctypes.create_string_buffer(128)
    known = llama_cpp.llama_adapter_meta_val_str(adapter, BASE_KEY.encode(), buffer, len(buffer)) >= 0
    if known and base.weights_sha256 and buffer.value.decode() != base.weights_sha256:
        llama_cpp.llama_adapter_lora_free(adapter)
        raise UserError(f"{path} was trained upon other weights than those of {base.name}", fix)
    return adapter


def _reason() -> str:
    """The first thing that llama.cpp said went wrong: what follows is only its way out."""
    return f" ({_log[0]})" if _log else ""


def metadata_of(model: Any, path: Path) -> BundleMetadata:
    """What the exporter wrote into a loaded file. Raises UserError if it is none of the exporter's."""

    def text(read: Any, index: int) -> str:
        size = read(model, index, None, 0)
        buffer = ctypes.create_string_buffer(size + 1)
        read(model, index, buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    items = {
        text(llama_cpp.llama_model_meta_key_by_index, index): text(llama_cpp.llama_model_meta_val_str_by_index, index)
        for index in range(llama_cpp.llama_model_meta_count(model))
    }
    try:
        return BundleMetadata.from_gguf(items)
    except ValueError as error:
        raise UserError(f"{path} was not made by `codelm export`: {error}", "serve a file that was") from None


def _kv_bytes_per_token(model: Any) -> int:
    """Of keys and values in float16, over all layers."""
    heads = llama_cpp.llama_model_n_head(model)
    width = llama_cpp.llama_model_n_head_kv(model) * _head_dim(model, heads)
    return int(2 * 2 * width * llama_cpp.llama_model_n_layer(model))


def _head_dim(model: Any, heads: int) -> int:
    """Not always width / heads."""
    architecture = _value(model, b"general.architecture")
    length = _value(model, f"{architecture}.attention.key_length".encode())
    return int(length) if length else llama_cpp.llama_model_n_embd(model) // heads


def _value(model: Any, key: bytes) -> str:
    """A metadata value, or nothing."""
    buffer = ctypes.create_string_buffer(256)
    size = llama_cpp.llama_model_meta_val_str(model, key, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if size >= 0 else ""
