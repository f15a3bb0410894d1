"""What an index finds, and what it does not."""

import ast
import concurrent.futures
import inspect
import json
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.attribution.index import build_index
from codelm.attribution.layout import MAX_PLACES, META
from codelm.attribution.lookup import BLOCK, CONTEXT, Index
from codelm.attribution.winnow import RUN
from codelm.errors import UserError
from codelm.lexemes import lexemes

from .conftest import document, write_shards

Build = Callable[..., Index]


def words(count: int, seed: int = 0, kinds: int = 1000) -> list[str]:
    """Lexemes at random."""
    pick = random.Random(seed)
    return [f"w{pick.randrange(kinds)}" for _ in range(count)]


def in_lines(some: list[str]) -> str:
    """Five lexemes in a line."""
    return "\n".join(" ".join(some[n : n + 5]) for n in range(0, len(some), 5))


def test_a_copied_function_is_found_with_all_that_is_told_of_it(index_of: Build) -> None:
    source = Path(ast.__file__).read_text(encoding="utf-8")
    copies = [{"repo": "pypi/other", "path": "x.py", "license": "MIT"}]
    told = {"repo": "python/cpython", "license": "PSF-2.0", "version": "3.11", "source_url": "https://x.org/ast.py"}
    index = index_of("def f(): pass\n", document("Lib/ast.py", source, also_in=copies, **told), "x = 1\n" * 20)
    copied, first = inspect.getsourcelines(ast.iter_child_nodes)
    text = "# mine\n\n" + textwrap.indent("".join(copied), "\t") + "mine_too()\n"
    (match,) = index.matches(text) or []
    assert (match.kind, match.n_files) == ("match", 1)
    assert (match.start_line, match.end_line) == (3, len(copied) + 2)
    assert text[match.start : match.end].split() == "".join(copied).split()
    assert match.lexemes == len(lexemes("".join(copied).encode()).hashes)
    (found,) = match.sources
    assert (found.start_line, found.end_line) == (first, first + len(copied) - 1)
    assert (found.repo, found.path, found.license, found.version) == ("python/cpython", "Lib/ast.py", "PSF-2.0", "3.11")
    assert found.source_url == "https://x.org/ast.py"
    assert [{key: copy[key] for key in copies[0]} for copy in found.also_in] == copies


@settings(max_examples=60)
@given(data=st.data(), kinds=st.sampled_from([1, 2, 3, 40, 1000]))
def test_every_run_of_thirty_lexemes_is_found(data: st.DataObject, kinds: int) -> None:
    """Also where the corpus repeats itself so much that the same fingerprint stands at many places."""
    seed = data.draw(st.integers(0, 10_000))
    lengths = data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=30))
    documents = [words(length, seed + n, kinds) for n, length in enumerate(lengths)]
    long = [d for d in documents if len(d) >= RUN]
    if not long:
        return
    chosen = data.draw(st.sampled_from(long))
    length = data.draw(st.integers(RUN, len(chosen)))
    first = data.draw(st.integers(0, len(chosen) - length))
    text = "new " + in_lines(chosen[first : first + length]) + " newer"
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "index").mkdir()
        rows = [document(f"{n}", in_lines(d)) for n, d in enumerate(documents)]
        build_index(Path(name) / "index", write_shards(Path(name), rows, rows_in_shard=7))
        matches = Index.open(Path(name) / "index").matches(text) or []
    covered = np.zeros(len(text), dtype=bool)
    for match in matches:
        covered[match.start : match.end] = True
        for source in match.sources:  # what is told of a source stands there
            lines = in_lines(documents[int(source.path)]).split("\n")[source.start_line - 1 : source.end_line]
            if match.kind == "match":
                assert " ".join(text[match.start : match.end].split()) in " ".join(lines)
    assert covered[4 : len(text) - 6].sum() >= length + sum(map(len, chosen[first : first + length])) - 1
    assert not covered[:4].any()
    assert not covered[-5:].any()


def test_a_run_is_found_in_full_across_the_blocks_of_a_long_text(index_of: Build) -> None:
    for seed in range(20):
        some = words(5 * BLOCK, seed, kinds=300)
        pick = random.Random(seed)
        first = pick.randrange(2 * BLOCK)
        end = first + pick.randrange(RUN, 3 * BLOCK)
        text = in_lines([*words(pick.randrange(3 * BLOCK), seed + 100), "new", *some[first:end], "new", *words(99, seed + 200)])
        matches = index_of(in_lines(some)).matches(text) or []
        assert [match.lexemes for match in matches] == [end - first]


@pytest.mark.parametrize("every", [20, RUN])
def test_a_change_in_every_run_of_thirty_hides_it(index_of: Build, every: int) -> None:
    some = words(400)
    index = index_of(in_lines(some))
    mangled = [f"new{n}" if n % every == every - 1 else word for n, word in enumerate(some)]
    assert index.matches(in_lines(mangled)) == []
    assert index.matches(in_lines([*some[: RUN - 1], "new"])) == []
    assert len(index.matches(in_lines(some[:RUN])) or []) == 1


def test_what_stands_across_two_documents_is_no_match(index_of: Build) -> None:
    one, other = words(29, 1), words(29, 2)
    assert index_of(in_lines(one), in_lines(other)).matches(in_lines(one + other)) == []


def test_what_stands_in_many_files_is_boilerplate(index_of: Build) -> None:
    common, own = words(60, 1), words(60, 2)
    many = MAX_PLACES + 1
    index = index_of(*(in_lines(words(40, 10 + n) + common + words(40, 50 + n)) for n in range(many)), in_lines(own))
    (boilerplate,) = index.matches(in_lines(common)) or []
    assert (boilerplate.kind, boilerplate.n_files, boilerplate.start, boilerplate.lexemes) == ("boilerplate", many, 0, 60)
    assert boilerplate.sources
    both = index.matches(in_lines([*common, "new", *own])) or []
    assert [(match.kind, match.lexemes) for match in both] == [("boilerplate", 60), ("match", 60)]
    # with a line of its own, it is that file's
    (match,) = index.matches(in_lines(common + words(40, 50 + 3)[:10])) or []
    assert (match.kind, match.lexemes, [source.path for source in match.sources]) == ("match", 70, ["3.py"])


def test_a_table_in_one_file_is_no_boilerplate(index_of: Build) -> None:
    index = index_of("t = [" + "0, " * 5000 + "]\nend(of, table)")
    (match,) = index.matches("0, " * 40) or []
    assert (match.kind, match.n_files, match.lexemes) == ("match", 1, 80)
    (match,) = index.matches("0, " * 40 + "] end(of, table)") or []
    assert match.lexemes == 87


def test_the_sources_of_a_run_come_in_the_order_of_the_corpus(index_of: Build) -> None:
    some = words(80)
    index = index_of(*(in_lines(words(40, 10 + n) + some[: 60 + n % 2]) for n in range(6)))
    (match,) = index.matches(in_lines(some)) or []
    assert (match.lexemes, match.n_files) == (61, 3)  # the shorter runs in the others lie in it
    assert [source.path for source in match.sources] == ["1.py", "3.py", "5.py"]


def test_context_counts_but_is_not_told_of(index_of: Build) -> None:
    some = words(80)
    index = index_of(in_lines(some))
    left, text = " ".join(some[:50]), " " + " ".join(some[50:70])
    assert index.matches(text) is None  # too short to tell
    (match,) = index.matches(text, context=left) or []
    assert (match.start, match.end, match.lexemes) == (1, len(text), 20 + CONTEXT)
    assert index.matches(" ".join(some[50:64]), context=left) is None
    assert index.matches(" new" * 40, context=left) == []
    assert index.matches("", context=left) is None
    assert index.matches("  \n ", context=left) is None


def test_a_word_that_begins_in_the_context_is_one(index_of: Build) -> None:
    some = words(60)
    index = index_of(in_lines(some))
    whole = " ".join(some)
    seam = whole.index(some[20]) + 1
    (match,) = index.matches(whole[seam:], context=whole[:seam]) or []
    assert (match.start, match.end, match.lexemes) == (0, len(whole) - seam, 40 + CONTEXT)


@pytest.mark.parametrize("mark", ["é", "名", "🙂", "\ud800"])
def test_places_are_in_characters(index_of: Build, mark: str) -> None:
    some = words(60)
    text = f"{mark}{mark} = '{mark}'\n" + in_lines(some) + f" {mark}"
    (match,) = index_of(in_lines(some)).matches(text) or []
    assert text[match.start : match.end] == in_lines(some)
    assert (match.start_line, match.end_line) == (2, 13)


def test_longer_runs_only(index_of: Build) -> None:
    some = words(100)
    index = index_of(in_lines(some))
    assert index.matches(in_lines(some[:50]), min_lexemes=51) is None
    assert index.matches(in_lines(some[:50]) + " new" * 9, min_lexemes=51) == []
    assert len(index.matches(in_lines(some[:51]) + " new" * 9, min_lexemes=51) or []) == 1
    with pytest.raises(ValueError, match="30"):
        index.matches("x", min_lexemes=29)


def test_threads_share_an_index(index_of: Build) -> None:
    documents = [words(300, seed) for seed in range(20)]
    index = index_of(*map(in_lines, documents))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: index.matches(in_lines(documents[n % 20][n : n + 40])), range(200)))
    assert [[source.path for match in some or [] for source in match.sources] for some in found] == [
        [f"{n % 20}.py"] for n in range(200)
    ]


def test_an_empty_corpus_has_an_index(index_of: Build) -> None:
    assert index_of().matches(in_lines(words(100))) == []
    assert index_of("", "\n\n", "x").matches(in_lines(words(100))) == []


def test_it_needs_no_pyarrow(index_of: Build, tmp_path: Path) -> None:
    index_of(in_lines(words(50)))
    code = f"""
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from codelm.attribution.lookup import Index
assert Index.open(Path(sys.argv[1])).matches({in_lines(words(50))!r})
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "index-1"], check=True)


def test_a_broken_index_is_a_user_error(index_of: Build, tmp_path: Path) -> None:
    index_of(in_lines(words(100)))
    whole = tmp_path / "index-1"

    def error(spoil: Callable[[Path], object]) -> str:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        spoil(folder)
        with pytest.raises(UserError) as raised:
            Index.open(folder)
        return str(raised.value)

    meta = json.loads((whole / META).read_text(encoding="utf-8"))
    assert "no attribution index" in error(shutil.rmtree)
    assert "no attribution index" in error(lambda folder: (folder / "doc.u32").unlink())
    assert "not as long" in error(lambda folder: (folder / "lexeme.u32").write_bytes(b"1234"))
    assert "version 99" in error(lambda folder: (folder / META).write_text(json.dumps({**meta, "version": 99})))
    for text in ("{", "[]", "{}", "null", '{"version": 1}', "\0"):
        assert "not a readable" in error(lambda folder, text=text: (folder / META).write_text(text))
