"""GGUF → smaller GGUF, by llama.cpp's own quantiser."""

import ctypes
import os
from pathlib import Path

import llama_cpp

from codelm.errors import UserError

FTYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
"""File suffix → llama.cpp's number of the format."""
FORMATS = ("q8_0", "q4_k_m")
"""Of those, what an export holds."""
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)
"""Keeps llama.cpp's report of every tensor off the terminal; must outlive its use by the C library."""


def quantize(source: Path, target: Path, format_: str) -> None:
    """Writes `target` in one of FTYPES from an f16 GGUF. Raises UserError if llama.cpp refuses."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[format_]
    params.nthread = os.cpu_count() or 1
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        raise UserError(
            f"llama.cpp could not quantise {source} to {format_}", "see that the file is whole and the disk has room"
        )
