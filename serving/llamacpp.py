"""llama.cpp through its C functions: one model, one context, one sequence whose KV cache is reused."""

import collections
import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import psutil

from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.fim import FimTokens

MAGIC = b"GGUF"
CHUNK_WORK = 3e9
"""Parameters × tokens to read at once: about 15 ms on two slow cores, so that a cancelled request ends soon."""
CHUNK_LIMITS = (16, 128)

LOG_ERROR = 4
_log: collections.deque[str] = collections.deque(maxlen=100)


@llama_cpp.llama_log_callback
def _keep_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp is silent; what it says of errors is kept for the message of ours."""
    if level == LOG_ERROR:
        _log.append(text.decode("utf-8", "replace").strip())


class LlamaCpp:
    """A loaded model and the tokens its KV cache holds. Not thread-safe: one thread owns it."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """threads: to read prompts with, by default one a physical core; half of them write.

        Writing is one small matrix product after another: a second thread gains little and, when the other cores are
        busy, waits for them at every token.

        Raises UserError if the file is missing, broken, or was not made by `codelm export`.
        """
        self._context: Any = None
        self._model: Any = _load(path)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        try:
            self.metadata = _metadata(self._model, path)
            self.fim = self._fim_tokens(path)
            self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
            self.context_length = self.metadata.context_length
            self.chunk = _chunk(llama_cpp.llama_model_n_params(self._model))
            self._context = self._new_context(threads or psutil.cpu_count(logical=False) or 1, path)
        except BaseException:
            self.close()
            raise
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._tokens: list[int] = []
        self._pieces: dict[int, bytes] = {}

    def _new_context(self, threads: int, path: Path) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = self.context_length
        parameters.n_batch = parameters.n_ubatch = self.chunk
        parameters.n_outputs_max = 1
        parameters.n_threads_batch = threads
        parameters.n_threads = max(1, threads // 2)
        if not llama_cpp.llama_supports_gpu_offload():
            # helps long prompts a little on a CPU and hurts every token written
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise UserError(f"{path}: no context of {self.context_length} tokens{_reason()}", "free some memory")
        return context

    def _fim_tokens(self, path: Path) -> FimTokens:
        def token_to_id(text: str) -> int | None:
            ids = self._tokenize(text, special=True)
            return ids[0] if len(ids) == 1 and self.is_special(ids[0]) else None

        try:
            return FimTokens.lookup(token_to_id)
        except ValueError as error:
            raise UserError(f"{path} cannot fill in the middle: {error}", "give a file made by `codelm export`") from None

    def encode(self, text: str) -> list[int]:
        """The text's token ids; the texts of special tokens in it are plain text."""
        return self._tokenize(text, special=False)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 1  # a token is a byte at least
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, False, special)
        return list(ids[:count])

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
        return bool(llama_cpp.llama_vocab_is_control(self._vocab, token) or llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keeps of the cache what begins `prompt`, but never all of it, since reading the last token gives the logits.

        Returns how many of the prompt's tokens need no reading.
        """
        kept = 0
        for cached, wanted in zip(self._tokens, prompt[:-1], strict=False):
            if cached != wanted:
                break
            kept += 1
        if kept < len(self._tokens) and not llama_cpp.llama_memory_seq_rm(self._memory, 0, kept, -1):
            self.forget()
            kept = 0
        del self._tokens[kept:]
        return kept

    def read(self, tokens: Sequence[int]) -> None:
        """Appends one to `chunk` tokens to the sequence. Raises RuntimeError, with an empty cache, if that fails."""
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(ids, len(tokens)))
        if status != 0:
            self.forget()
            raise RuntimeError(f"llama.cpp could not read {len(tokens)} tokens: status {status}{_reason()}")
        self._tokens.extend(tokens)

    def logits(self) -> npt.NDArray[np.float32]:
        """The scores of each token to come next, of shape (vocab_size,)."""
        scores = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(scores, (self.vocab_size,)).copy()

    def forget(self) -> None:
        """Empties the cache."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self._tokens = []

    def close(self) -> None:
        """Frees the memory; the object is of no use afterwards. May be called again."""
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "give the path of a .gguf file; `codelm export` makes one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give the path of a .gguf file") from None
    if magic != MAGIC:
        raise UserError(f"{path} is not a GGUF file", "give a .gguf file; `codelm export` makes one")
    llama_cpp.llama_log_set(_keep_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    _log.clear()
    parameters = llama_cpp.llama_model_default_params()
    parameters.check_tensors = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise UserError(f"{path} cannot be loaded{_reason()}", "the file may be cut short: export or copy it again")
    return model


def _reason() -> str:
    """The first thing that llama.cpp said went wrong: what follows is only its way out."""
    return f" ({_log[0]})" if _log else ""


def _metadata(model: Any, path: Path) -> BundleMetadata:
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


def _chunk(parameters: int) -> int:
    """Tokens to read at once by a model of that many parameters: a power of two within CHUNK_LIMITS."""
    low, high = CHUNK_LIMITS
    tokens = min(high, max(low, int(CHUNK_WORK / max(1, parameters))))
    return 1 << tokens.bit_length() - 1
