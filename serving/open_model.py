"""A model from a path: a GGUF through llama.cpp, or a folder with a checkpoint in it through torch."""

from pathlib import Path

from codelm.errors import UserError
from serving.backend import KV_MEMORY, MAX_SEQUENCES, Backend

LOAD_IN = ("8bit", "4bit")


def open_model(
    path: Path,
    threads: int | None = None,
    kv_memory: int = KV_MEMORY,
    sequences: int = MAX_SEQUENCES,
    *,
    device: str | None = None,
    load_in: str | None = None,
) -> Backend:
    """The backend of a GGUF, a checkpoint, or the newest checkpoint of a training or a run.

    threads, kv_memory, sequences: as of `LlamaCpp`. device, load_in: of checkpoints, as of `Transformers`. Raises UserError if
    the model cannot be loaded, or not like that.
    """
    if load_in is not None and load_in not in LOAD_IN:
        raise UserError(f"--load-in {load_in} is none of {', '.join(LOAD_IN)}", "give one of them")
    if path.is_dir():
        return of_checkpoint(path, threads, kv_memory, sequences, device, load_in)
    if option := next((name for name, value in {"--device": device, "--load-in": load_in}.items() if value), None):
        raise UserError(
            f"{option} is for checkpoints, and {path} is no folder",
            "leave it off: a GGUF is quantised already, and runs on the device that llama.cpp was built for",
        )
    from serving.llamacpp import LlamaCpp

    return LlamaCpp(path, threads, kv_memory, sequences)


def of_checkpoint(
    path: Path, threads: int | None, kv_memory: int, sequences: int, device: str | None, load_in: str | None
) -> Backend:
    """Through torch, which is loaded now and not before. Raises UserError if it is not installed."""
    try:
        from codelm.checkpoints import given
        from serving.transformers_backend import Transformers
    except ModuleNotFoundError as error:
        raise UserError(
            f"to serve a checkpoint needs the package {error.name}",
            "pip install 'codelm[train]', or serve the GGUF that `codelm export` makes of it",
        ) from error
    return Transformers(given(path, "as model"), threads, kv_memory, sequences, device=device, load_in=load_in)
