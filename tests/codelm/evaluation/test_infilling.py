"""Infilling sets of others."""

import gzip
import json
from pathlib import Path

import pytest

from codelm.errors import UserError
from codelm.evaluation.infilling import infilling_places
from codelm.evaluation.places import Place

ROW = {
    "task_id": "SingleLineInfilling/x/0/L0",
    "prompt": "def f(a):\n",
    "canonical_solution": "    return a\n",
    "suffix": "f(1)\n",
}


@pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.gz"])
def test_rows_are_places_whose_line_break_follows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = json.dumps(ROW) + "\n\n" + json.dumps(ROW | {"canonical_solution": "    return a"}) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert infilling_places(path) == [
        Place("def f(a):\n", "    return a", "\nf(1)\n"),
        Place("def f(a):\n", "    return a", "f(1)\n"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "cannot be read as an infilling set"),
        (b"[1]\n", "cannot be read as an infilling set"),
        (b'{"prompt": ""}\n', "KeyError: 'canonical_solution'"),
        (b'{"prompt": 1, "canonical_solution": 2, "suffix": 3}\n', "cannot be read as an infilling set"),
        (b"\xff\xfe", "cannot be read as an infilling set"),
        (json.dumps(ROW | {"canonical_solution": "a\nb\n"}).encode(), "more than one line"),
        (b"\n", "holds no row"),
    ],
)
def test_what_is_no_such_set(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        infilling_places(path)
    zipped = tmp_path / "cut.jsonl.gz"
    zipped.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        infilling_places(zipped)
    with pytest.raises(UserError, match="No such file"):
        infilling_places(tmp_path / "none.jsonl")
