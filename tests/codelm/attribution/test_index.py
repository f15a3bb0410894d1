"""What is written, and from what."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.attribution import index as module
from codelm.attribution.index import build_index
from codelm.attribution.layout import META
from codelm.attribution.winnow import RUN, WINDOW, choices
from codelm.errors import UserError

from .conftest import document, write_shards


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 1 << 32, 2**64 - 1]), max_size=120))
def test_each_window_chooses_its_last_least_gram(grams: list[int]) -> None:
    low = [gram & 0xFFFFFFFF for gram in grams]
    expected = [
        max(place for place in range(first, first + WINDOW) if low[place] == min(low[first : first + WINDOW]))
        for first in range(len(grams) - WINDOW + 1)
    ]
    assert choices(np.array(grams, dtype=np.uint64)).tolist() == expected


def code(count: int) -> list[str]:
    """Files that have much in common."""
    common = "".join(f"def helper_{n}(self, value={n}):\n    return self.table[value] + {n}\n" for n in range(8))
    return [f"class C{n}:\n    name = {n * n}\n{common * (n % 3)}\n# end of {n}" for n in range(count)]


def built(folder: Path, contents: list[str], rows_in_shard: int = 1000) -> dict[str, bytes]:
    """The bytes of an index's files."""
    (folder / "index").mkdir(parents=True)
    rows = [document(f"{n}.py", content) for n, content in enumerate(contents)]
    build_index(folder / "index", write_shards(folder / "shards", rows, rows_in_shard))
    return {path.name: path.read_bytes() for path in sorted((folder / "index").iterdir())}


def test_the_same_documents_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut into shards and batches."""
    first = built(tmp_path / "a", code(150))
    assert set(json.loads(first[META])["sizes"]) == set(first) - {META}
    assert built(tmp_path / "b", code(150)) == first
    monkeypatch.setattr(module, "BATCH_BYTES", 3000)
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    monkeypatch.setattr(module, "CHUNK", 10)
    assert built(tmp_path / "c", code(150), rows_in_shard=40) == first


def test_what_stands_where(tmp_path: Path) -> None:
    """The arrays against a plain reading of the documents."""
    contents = [*code(60), "", "\n\n", "one", "\nblank\n\n\nlines é\n"]
    files = built(tmp_path, contents)
    table = np.frombuffer(files["table.u64"], "<u8").reshape(-1, 3)
    line = np.frombuffer(files["line.u32"], "<u4")
    told = [json.loads(row) for row in files["docs.jsonl"].splitlines()]
    assert [row["path"] for row in told] == [f"{n}.py" for n in range(len(contents))]
    for (begin, first_line, _), (end, last_line, _), content in zip(table, table[1:], contents, strict=False):
        lines = content.split("\n")
        counts = [len(re.findall(r"\w+|[^\w\s]", text)) for text in lines]
        assert end - begin == sum(counts)
        assert line[first_line:last_line].tolist() == [sum(counts[:n]) for n in range(len(lines))]
    run_files = np.frombuffer(files["run_files.u32"], "<u4")
    stand: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for doc, content in enumerate(contents):
        words = re.findall(r"\w+|[^\w\s]", content)
        for first in range(len(words) - RUN + 1):
            stand[tuple(words[first : first + RUN])].add(doc)
    run_doc, run_pos = np.frombuffer(files["run_doc.u32"], "<u4"), np.frombuffer(files["run_pos.u32"], "<u4")
    assert len(run_doc) > 100
    for doc, pos, count in zip(run_doc, run_pos, run_files, strict=True):
        words = re.findall(r"\w+|[^\w\s]", contents[doc])
        assert len(stand[tuple(words[pos : pos + RUN])]) == count


def test_progress_counts_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    seen: list[tuple[float, float | None]] = []
    (tmp_path / "index").mkdir()
    shards = write_shards(tmp_path, [document(f"{n}", "x = 1\n" * 9) for n in range(100)], rows_in_shard=30)
    build_index(tmp_path / "index", shards, lambda done, total=None, **_: seen.append((done, total)))
    assert len(seen) >= 4
    assert seen == sorted(seen)
    assert seen[-1] == (100, 100)


@pytest.mark.parametrize("spoil", ["truncate", "columns", "missing"])
def test_a_broken_shard_is_a_user_error(tmp_path: Path, spoil: str) -> None:
    (shard,) = write_shards(tmp_path / "shards", [document("a", "x = 1")])
    if spoil == "truncate":
        shard.write_bytes(shard.read_bytes()[:-20])
    elif spoil == "missing":
        shard.unlink()
    else:
        pq.write_table(pq.read_table(shard).drop_columns(["content"]), shard)
    (tmp_path / "index").mkdir()
    with pytest.raises(UserError, match="not readable"):
        build_index(tmp_path / "index", [shard])
