"""Benchmark problems in files: sets of the user's own, and what is shipped."""

import gzip
import json
import pickle
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.config.corpus import Decontamination
from codelm.corpus import decontaminate
from codelm.corpus.decontaminate import FOLDER, RUN, Contamination, commented
from codelm.errors import UserError
from codelm.lexemes import lexemes

LEAP = '''
def count_leap_years(first: int, last: int) -> int:
    """Count the leap years from first to last, both included.
    >>> count_leap_years(1999, 2004)
    2
    """
    total = 0
    for year in range(first, last + 1):
        if year % 400 == 0 or (year % 4 == 0 and year % 100 != 0):
            total += 1
    return total
'''
LEAP_BARE = LEAP[: LEAP.index('    """')] + LEAP[LEAP.index("    total = 0") :]
VOWELS = "Write a function that removes every vowel from the given string and keeps the order of the rest."
VOWELS_CODE = """def drop_vowels(text):
  kept = [letter for letter in text if letter not in 'aeiouAEIOU']
  return ''.join(kept)"""
TRIPLE = "def triple_of(number):\n    return number * 3"
ROWS = [
    {"task_id": "Own/0", "prompt": LEAP[: LEAP.index("    total = 0")], "canonical_solution": LEAP_BARE, "difficulty": 3},
    {"task_id": 1, "text": VOWELS, "code": VOWELS_CODE, "test_list": ["assert drop_vowels('a b c d e f') == ' b c d  f'"]},
    {"task_id": 2, "code": TRIPLE, "entry": "triple_of"},
]
HOST = (Path(json.__file__).parent / "decoder.py").read_text(encoding="utf-8")


def jsonl(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(*files: str) -> Contamination:
    return Contamination.load(Decontamination(benchmarks=[], files=list(files)))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Contamination:
    return load(jsonl(tmp_path_factory.mktemp("sets") / "own.jsonl", list(ROWS)))


def find(contamination: Contamination, text: str | bytes) -> str | None:
    data = text.encode() if isinstance(text, str) else text
    return contamination.find(lexemes(data), data)


def in_host(text: str, indent: str = "") -> str:
    middle = HOST.index("\ndef ")
    return f"{HOST[:middle]}\n{textwrap.indent(text, indent)}\n{HOST[middle:]}"


# --- what is found


@pytest.mark.parametrize("indent", ["", "    ", "\t", "            "])
@pytest.mark.parametrize(
    ("text", "line"),
    [(LEAP, 1), (LEAP_BARE, 1), (VOWELS_CODE, 2), (f'def f():\n    """{VOWELS}"""\n', 2), (TRIPLE, 3)],
    ids=["documented", "bare", "code", "prompt", "short"],
)
def test_texts_in_real_files(own: Contamination, text: str, line: int, indent: str) -> None:
    assert find(own, in_host(text, indent)) == f"own.jsonl:{line}"


def test_laid_out_otherwise(own: Contamination) -> None:
    text = LEAP_BARE.replace(":\n", ":\r\n\r\n").replace(" = ", "=").replace("(first", "(\n first")
    assert find(own, in_host(text)) == "own.jsonl:1"


def test_another_docstring_and_comments(own: Contamination) -> None:
    aside = "    # nothing yet\n    '''Years of 366 days. Used by the calendar's view only.'''\n"
    text = LEAP_BARE.replace("    total = 0", aside + "    total = 0").replace("total += 1", "total += 1  # one more")
    assert find(own, in_host(text.replace("    return", "    # all of them\n    return"))) == "own.jsonl:1"


def test_a_renamed_function(own: Contamination) -> None:
    assert find(own, in_host(LEAP_BARE.replace("count_leap_years", "how_many"))) == "own.jsonl:1"


def test_tests_of_a_problem_in_a_list(own: Contamination) -> None:
    assert find(own, ROWS[1]["test_list"][0]) == "own.jsonl:2"  # type: ignore[index]


# --- what is not


def test_real_files_are_clean(own: Contamination) -> None:
    shipped = Contamination.load(Decontamination())
    for path in sorted(Path(json.__file__).parent.parent.glob("*.py")):
        data = path.read_bytes()
        assert find(own, data) is None and find(shipped, data) is None, path


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "def",
        "\x00" * 50,
        "task_id = 'Own/0'",
        "triple_of",
        "def double_of(number):\n    return number * 2",
        "def triple_of(number):\n    return sum([number] * 3)",
        'total = 0\nfor year in range(1, 10):\n    total += 1\nreturn total\n"""',
    ],
)
def test_others(own: Contamination, text: str) -> None:
    assert find(own, text) is None


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    shipped = Contamination.load(Decontamination())
    assert find(shipped, data) is None
    assert len(commented(lexemes(data), data)) == len(lexemes(data).starts)


def test_comments_and_docstrings() -> None:
    data = b'a = "#" # b\ndef c():\n  """d "e" f"""\n  return \'g\'  # h \'\'\' i\nj = \'\'\'k\'s l\'\'\' + m\n"""n'
    words = lexemes(data)
    kept = [data[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    kept = [word for word, aside in zip(kept, commented(words, data), strict=True) if not aside]
    assert b"".join(kept) == b"a=\"defc():return'g'j=+m"


# --- sets


def test_no_sets_find_nothing() -> None:
    assert find(load(), LEAP) is None


def test_sets_are_joined(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"{i}.jsonl", [ROWS[i]]) for i in range(2)]
    both = Contamination.load(Decontamination(benchmarks=["mbpp"], files=files))
    assert find(both, LEAP) == "0.jsonl:1"
    assert find(both, VOWELS_CODE) == "1.jsonl:1"
    assert find(pickle.loads(pickle.dumps(both)), VOWELS_CODE) == "1.jsonl:1"


def test_equal_texts_count_once(tmp_path: Path) -> None:
    found = load(jsonl(tmp_path / "own.jsonl", [LEAP, {"a": LEAP, "b": [[LEAP]]}, VOWELS]))
    assert found.names == ("own.jsonl:1", "own.jsonl:3")


def test_packed_sets_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" + json.dumps(LEAP).encode() + b"\n\n"))
    assert find(load(str(path)), LEAP) == "own.jsonl.gz:2"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2"),
        (b'"\xff\xfe"\n', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b'{"a": "short"}\n', "no text"),
        (b"", "no text"),
    ],
    ids=["cut", "encoding", "depth", "short", "empty"],
)
def test_broken_sets(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "torn.jsonl.gz", "plain.jsonl.gz"])
def test_sets_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(json.dumps(LEAP).encode() * 100)[:-20])
    (tmp_path / "plain.jsonl.gz").write_bytes(b"{}\n")
    with pytest.raises(UserError, match="cannot be read"):
        load(str(tmp_path / name))


# --- what is shipped


@pytest.mark.parametrize(("name", "problems"), [("humaneval", 164), ("mbpp", 427)])
def test_shipped_hashes(name: str, problems: int) -> None:
    path = FOLDER / f"{name}.npz"
    assert path.stat().st_size < 1 << 20
    found = Contamination.read(path)
    assert len(set(found.names)) == problems
    assert all(one.startswith(f"{name}/") for one in found.names)
    assert np.all(np.diff(found.runs.astype(object)) >= 0)
    assert set(found.owners.tolist()) == set(range(len(found.names)))
    assert np.all(found.needed >= 1)


def test_hashes_of_other_lexemes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Contamination.of([("one", LEAP)])
    found.write(tmp_path / "set.npz")
    assert find(Contamination.read(tmp_path / "set.npz"), LEAP) == "one"
    monkeypatch.setattr(decontaminate, "PROBE", b"a b c " * RUN)
    with pytest.raises(ValueError, match="other lexemes"):
        Contamination.read(tmp_path / "set.npz")
