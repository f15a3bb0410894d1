"""Whether a file is still the one that was read."""

from pathlib import Path

Stamp = tuple[int, ...]


def stamp(path: Path) -> Stamp | None:
    """What changes when a file does, or of a folder the newest weights in it; None if it is not there."""
    weights = [file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}model.safetensors")] if path.is_dir() else []
    try:
        path = max(weights, key=lambda file: file.stat().st_mtime_ns, default=path)
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def change(path: Path, before: Stamp | None) -> str | None:
    """What has become of a file since it was loaded, when its stamp was `before`; None if it is the same."""
    if (now := stamp(path)) == before:
        return None
    return f"{path} has {'been removed' if now is None else 'changed'} since it was loaded"
