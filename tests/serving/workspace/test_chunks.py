"""Files cut into chunks."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.workspace.chunks import MAX_LINES, Chunk, cut, head

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "chunk_cases.yaml").read_text())
texts = st.lists(st.text(st.sampled_from("a })\t  #"), max_size=12), max_size=120).map("\n".join)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_cases(case: dict[str, Any]) -> None:
    assert [chunk.text.split("\n")[0] for chunk in cut("a", case["text"])] == case["starts"]


@given(texts)
def test_every_line_with_text_is_in_one_chunk(text: str) -> None:
    lines = text.split("\n")
    seen: list[int] = []
    for chunk in cut("a.py", text):
        assert chunk.path == "a.py"
        assert 0 < chunk.end - chunk.start <= MAX_LINES
        assert chunk.text == "".join(line + "\n" for line in lines[chunk.start : chunk.end])
        assert lines[chunk.start].strip()
        assert lines[chunk.end - 1].strip()
        seen += range(chunk.start, chunk.end)
    assert seen == sorted(set(seen))
    assert {number for number, line in enumerate(lines) if line.strip()} <= set(seen)


@given(texts)
def test_a_head_holds_lines_of_its_chunk_in_their_order(text: str) -> None:
    for chunk in cut("a.py", text):
        lines = iter(chunk.text.split("\n"))
        kept = head(chunk)
        assert kept[:3] == chunk[:3]
        assert all(line in lines for line in kept.text.split("\n")[:-1])


def test_a_method_is_cut_out_of_a_long_class() -> None:
    method = "    def m{0}(self):\n" + "        x()\n" * 12 + "\n"
    text = "class A:\n" + "".join(method.format(number) for number in range(9))
    starts = [chunk.text.split("\n")[0].strip() for chunk in cut("a.py", text)]
    assert starts == ["class A:", *(f"def m{number}(self):" for number in range(1, 9))]


def test_stairs_of_indentation_are_no_trouble() -> None:
    text = "\n\n".join(" " * depth + "x" for depth in range(3_000))
    assert len(cut("a.py", text)) > 3_000 * 2 / MAX_LINES / 2


def test_a_head_is_what_a_class_offers() -> None:
    signature = "    def f(\n        self,\n        x: int,\n    ) -> int:\n"
    text = 'class A(B):\n    """Why."""\n\n' + signature + "        if x:\n            return 1\n        return 2\n"
    assert head(Chunk("a.py", 0, 10, text)).text == "class A(B):\n" + signature
