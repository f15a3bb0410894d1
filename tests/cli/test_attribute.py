import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.attribute import described_source
from codelm.attribution.index import build_index
from codelm.attribution.layout import MAX_PLACES
from codelm.attribution.lookup import Source
from codelm.corpus.rows import ROW

CODELM = Path(sys.executable).parent / "codelm"

OWN = "".join(f"def area_{n}(width, height):\n    return width * height * {n}\n\n" for n in range(4))
COMMON = "".join(f"# this notice must stay in all copies of part {n}\n" for n in range(6))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a corpus's index: one file of its own, and a notice in many."""
    run = tmp_path_factory.mktemp("run")
    empty = {f.name: None if f.nullable else "" if pa.types.is_string(f.type) else 0 for f in ROW}
    copy = {"repo": "npm/shapes", "path": "copied.py", "license": "ISC"}
    told = {"license": "MIT", "version": "1.2", "source_url": "https://example.org/area.py", "also_in": [copy]}
    rows = [{**empty, "repo": "pypi/shapes", "path": "area.py", "content": "import math\n\n" + OWN, **told}]
    rows += [{**empty, "repo": f"pypi/r{n}", "path": "a.py", "content": f"{COMMON}\nx = {n}\n"} for n in range(MAX_PLACES + 4)]
    pq.write_table(pa.Table.from_pylist(rows, schema=ROW), run / "train-00000.parquet")
    folder = run / "corpus" / "attribution"
    folder.mkdir(parents=True)
    build_index(folder, [run / "train-00000.parquet"])
    return run


def attribute(*arguments: str | Path, given: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = subprocess.run([CODELM, "attribute", *arguments], input=given, capture_output=True)
    return process.returncode, process.stdout.decode(), process.stderr.decode()


def test_a_match_is_told_with_its_licence(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("# of mine\n" + OWN.replace("    ", "\t"), encoding="utf-8")
    code, out, err = attribute(file, "--run", run)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "lines 2–12: 56 words and marks, verbatim in 1 file",
        "    pypi/shapes 1.2: area.py, lines 3–13, MIT",
        "        https://example.org/area.py",
        "        also npm/shapes: copied.py, ISC",
    ]


@pytest.mark.parametrize(("count", "end"), [(1, "a0.py, MIT"), (2, "a0.py, MIT, and 1 more copy"), (9, ", and 8 more copies")])
def test_copies_take_one_line(count: int, end: str) -> None:
    copies = [{"repo": "proj", "path": f"a{n}.py", "license": "MIT"} for n in range(count)]
    told = described_source(Source("own", "a.py", 1, 2, "MIT", None, None, copies))
    assert len(told) == 2
    assert told[1].endswith(end)


def test_json_has_what_the_library_tells(run: Path) -> None:
    from codelm.attribution.lookup import Index

    text = "x = 1\n" + OWN
    code, out, _ = attribute("-", "--index", run / "corpus" / "attribution", "--format", "json", given=text.encode())
    matches = Index.open(run / "corpus" / "attribution").matches(text)
    assert matches
    assert (code, json.loads(out)) == (1, {"checked": True, "matches": [dataclasses.asdict(match) for match in matches]})


def test_what_is_no_match(run: Path) -> None:
    new = " ".join(f"new{n}" for n in range(40))
    assert attribute("-", "--run", run, given=new.encode()) == (0, "no match\n", "")
    assert attribute("-", "--run", run, given=b"x = 1") == (0, "not checked: fewer than 30 words and marks\n", "")
    assert attribute("-", "--run", run, given=b"")[:2] == (0, "not checked: fewer than 30 words and marks\n")
    code, out, _ = attribute("-", "--run", run, "--format", "json", given=b"x = 1")
    assert (code, json.loads(out)) == (0, {"checked": False, "matches": []})
    code, out, _ = attribute("-", "--run", run, "--min-lexemes", "57", given=(OWN + new).encode())
    assert (code, out) == (0, "no match\n")


def test_boilerplate_alone_is_no_match(run: Path) -> None:
    code, out, _ = attribute("-", "--run", run, given=COMMON.encode())
    assert code == 0
    assert f"boilerplate, in up to {MAX_PLACES + 4} files" in out.splitlines()[0]


@pytest.mark.parametrize(
    "junk", [b"\0" * 5000, bytes(range(256)) * 50, "ü".encode("utf-16") * 500, b"\xff\xfe" + b"a b " * 99], ids=range(4)
)
def test_what_is_no_text_is_not_called_clean(run: Path, junk: bytes) -> None:
    code, _, err = attribute("-", "--run", run, given=junk + b"\n" + OWN.encode())
    assert code == 2
    assert "not UTF-8 text" in err
    assert len(err.splitlines()) == 1


def test_mistakes_are_told_on_one_line(run: Path, tmp_path: Path) -> None:
    for arguments, word in [
        (["a.py"], "--run"),
        (["-", "--run", run, "--index", run], "--run"),
        (["-", "--run", tmp_path], "no attribution index"),
        ([tmp_path / "none.py", "--run", run], "none.py"),
        ([tmp_path, "--run", run], "directory"),
    ]:
        code, out, err = attribute(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: ")
        assert word in err
    assert attribute("-", "--run", run, "--min-lexemes", "29")[0] == 2
