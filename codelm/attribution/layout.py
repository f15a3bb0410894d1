"""What lies in the folder of an attribution index. Little-endian arrays without headers, to be mapped into memory.

| file | one entry for each | |
|---|---|---|
| hash.u64, doc.u32, pos.u32 | fingerprint at a place | sorted by hash; document; lexeme in it |
| common.u64 | fingerprint at more than MAX_PLACES places | sorted; these are not in hash.u64 |
| run_hash.u64, run_doc.u32, run_pos.u32, run_files.u32 | run of RUN lexemes around one of those | sorted by \
hash; a place in a document; how many documents hold it. If they are more than MAX_PLACES, only the first is there |
| lexeme.u32 | lexeme of the corpus | low half of its hash |
| line.u32 | line of the corpus | first lexeme in or after it, counted in its document |
| table.u64 | document, and one more | first entry in lexeme.u32, in line.u32, first byte in docs.jsonl |
| docs.jsonl | document | repo, path, license, version, source_url, also_in |
| meta.json | | version of this layout, parameters, counts, sizes of the files |
"""

from typing import Any

import numpy as np

VERSION = 1
META = "meta.json"
DOCS = "docs.jsonl"

MAX_PLACES = 16
"""A fingerprint at more places is looked up through the runs around it; what stands in more files is common boilerplate."""

U64, U32 = np.dtype("<u8"), np.dtype("<u4")
ARRAYS: dict[str, np.dtype[Any]] = {
    "hash": U64,
    "doc": U32,
    "pos": U32,
    "common": U64,
    "run_hash": U64,
    "run_doc": U32,
    "run_pos": U32,
    "run_files": U32,
    "lexeme": U32,
    "line": U32,
    "table": U64,
}


def file_name(array: str) -> str:
    """The file of an array."""
    return f"{array}.u{8 * ARRAYS[array].itemsize}"
