"""One more text in the metadata of a GGUF file that is there already; all else stays as it is, byte for byte.

A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) is a header with two counts, key-value pairs, what
tells of the tensors (places relative to the first), padding, and the tensors.
"""

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf

from codelm.export.gguf import reading
from codelm.stage import MANIFEST, Manifest, disk_full_is_a_user_error, file_sha256, write_atomically

COUNTS = 8
"""Byte at which the header's two counts begin, 8 bytes each: of tensors, and of pairs."""
PAIRS = COUNTS + 16
COPY_BYTES = 1 << 24


def set_text(path: Path, key: str, text: str) -> None:
    """Gives a key of the metadata a text, in place of what it had.

    The new file is written beside the old one and takes its place when it is whole and on the disk. If the folder has a
    manifest that tells the file's SHA-256, it tells the new one then. Raises UserError if the file is no whole GGUF, or if the
    disk is full; the file is then what it was.
    """
    with reading(path) as reader:
        head, first_tensor = changed_head(reader, key, text), int(reader.data_offset)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with disk_full_is_a_user_error(path), path.open("rb") as source, temporary.open("wb") as target:
            target.write(head)
            source.seek(first_tensor)
            shutil.copyfileobj(source, target, COPY_BYTES)
            target.flush()
            os.fsync(target.fileno())
        shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    tell_manifest(path)


def changed_head(reader: Any, key: str, text: str) -> bytes:
    """What stands before the tensors, with the text under the key."""
    infos = [tensor.field for tensor in reader.tensors]
    end = infos[-1].offset + sum(part.nbytes for part in infos[-1].parts)
    pairs = [field for field in reader.fields.values() if field.offset >= PAIRS]
    bounds = [field.offset for field in pairs] + [infos[0].offset]
    kept = [
        reader.data[start:stop].tobytes()
        for field, start, stop in zip(pairs, bounds[:-1], bounds[1:], strict=True)
        if field.name != key
    ]
    order = ">" if reader.endianess is gguf.GGUFEndian.BIG else "<"
    pair = b"".join(
        (packed(order, key), struct.pack(f"{order}I", gguf.GGUFValueType.STRING), packed(order, text)),
    )
    count = struct.pack(f"{order}Q", len(kept) + 1)
    head = b"".join((reader.data[: COUNTS + 8].tobytes(), count, *kept, pair, reader.data[infos[0].offset : end].tobytes()))
    return head + bytes(-len(head) % int(reader.alignment))


def packed(order: str, text: str) -> bytes:
    """A text as GGUF writes it: its length in bytes, then the bytes."""
    data = text.encode()
    return struct.pack(f"{order}Q", len(data)) + data


def tell_manifest(path: Path) -> None:
    """Writes the file's new SHA-256 into the manifest of its folder, if that has one of the file."""
    if not (path.parent / MANIFEST).is_file():
        return
    manifest = Manifest.read(path.parent)
    if path.name in manifest.outputs:
        outputs = manifest.outputs | {path.name: file_sha256(path)}
        write_atomically(
            path.parent / MANIFEST, manifest.model_copy(update={"outputs": outputs}).model_dump_json(indent=2) + "\n"
        )
