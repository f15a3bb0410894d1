"""Why a file is in a corpus, or why it is not."""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codelm.config.corpus import CorpusConfig, Execution, LicensePolicy
from codelm.corpus.build import build
from codelm.corpus.rows import REJECTED
from codelm.corpus.snapshot import remove
from codelm.corpus.why import why
from codelm.errors import UserError

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tree: Tree, code: Code) -> Path:
    """Files that are dropped for different reasons, and some that stay."""
    long = "".join(code(f"part{number}") for number in range(60))
    files: dict[str, str | bytes] = {f"{name}/{name}.py": code(name) for name in "abcdef"}
    files |= {
        "same/as_a.py": code("a"),
        "long/one.py": long,
        "long/other.py": long + code("more"),
        "tests/test_a.py": code("test_a"),
        ".hidden.py": code("hidden"),
        "gpl.py": "# SPDX-License-Identifier: GPL-3.0-only\n" + code("gpl"),
        "binary.py": b"a = 1\0\n",
        "mail.py": 'OWNER = "m.kowalska@acme-tools.io"\n' + code("mail"),
        "web/node_modules/left/index.js": "var a = 1;\nvar b = 2;\nvar c = 3;\n",
        "README.md": "words\n",
    }
    return tree(tmp_path_factory.mktemp("why") / "project", files)


@pytest.fixture(scope="module")
def corpus(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their corpus."""
    folder = tmp_path_factory.mktemp("run") / "corpus"
    build(folder, CorpusConfig(sources=[str(project)], licenses=LicensePolicy(unknown="keep"), execution=Execution(workers=1)))
    return folder


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("tests/test_a.py", "tests", "tests/ (part, ext)"),
        (".hidden.py", "hidden", ".hidden.py (stem)"),
        ("gpl.py", "license", "GPL-3.0-only"),
        ("binary.py", "binary", "NUL at byte 5"),
        ("README.md", "language", ""),
    ],
)
def test_dropped(corpus: Path, path: str, reason: str, detail: str) -> None:
    (answer,) = why(corpus, path)
    assert not answer.kept
    assert (answer.place, answer.reason) == (f"project/{path}", reason)
    assert detail in answer.detail
    assert len(answer.sentence) > 20


def test_kept(corpus: Path) -> None:
    (answer,) = why(corpus, "mail.py")
    assert answer.kept
    assert answer.split in ("train", "valid")
    assert answer.sentence.startswith("Kept, for ")
    assert answer.language == "Python"
    assert answer.redacted == {"email": 1}


def test_copies_name_each_other(corpus: Path) -> None:
    (kept,) = why(corpus, "a/a.py")
    assert [copy["path"] for copy in kept.copies] == ["same/as_a.py"]
    (same,) = why(corpus, "same/as_a.py")
    assert same.reason == "duplicate"
    assert same.like == "project/a/a.py"
    (near,) = why(corpus, "long/other.py")
    assert near.reason == "near_duplicate"
    assert near.like == "project/long/one.py"
    assert near.jaccard is not None
    assert 0.9 < near.jaccard < 1


def test_what_became_of_the_file_that_it_is_a_copy_of(corpus: Path, tmp_path: Path) -> None:
    removed = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    remove(removed, ["project/a"])
    (same,) = why(removed, "same/as_a.py")
    assert same.sentence == "It is the same text as another file, which was left out itself: opt_out (project/a)."


def test_a_copy_of_a_copy(corpus: Path, tmp_path: Path) -> None:
    chained = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for path in (chained / "rejected").iterdir():
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            if row["path"] == "same/as_a.py":
                row["detail"] = "project/long/other.py"
        pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED), path)
    (same,) = why(chained, "same/as_a.py")
    assert same.sentence == "It is the same text as another file, which is a copy of project/long/one.py, which is kept."


def test_a_file_by_any_name(corpus: Path, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(project)
    monkeypatch.chdir(project / "a")
    for name in ("project/a/a.py", "a/a.py", str(project / "a" / "a.py"), "a.py", "./a.py", "../a/a.py", f"{link}/a/a.py"):
        (answer,) = why(corpus, name)
        assert answer.place == "project/a/a.py"


def test_a_file_of_a_folder_that_was_not_entered(corpus: Path, project: Path) -> None:
    for name in ("web/node_modules/left/index.js", str(project / "web/node_modules/left/index.js")):
        (answer,) = why(corpus, name)
        assert answer.place == "project/web/node_modules/"
        assert not answer.kept


def test_the_nearest_is_named(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean project/binary\.py\?"):
        why(corpus, "some/binari.py")
    with pytest.raises(UserError, match="repo/path"):
        why(corpus, "qqqqqqqqqqqqqqqqq")


@pytest.mark.parametrize("name", ["", "/", "\0", "a\nb", "..", "*", "ä" * 5000])
def test_odd_names(corpus: Path, name: str) -> None:
    with pytest.raises(UserError):
        why(corpus, name)


def test_standard_library(stdlib_corpus: Path) -> None:
    (answer,) = why(stdlib_corpus, str(Path(sysconfig.get_path("stdlib")) / "json" / "decoder.py"))
    assert answer.place == "python/cpython/json/decoder.py"
    assert answer.kept
    assert answer.license == "PSF-2.0"


def test_a_broken_corpus(corpus: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    next((broken / "rejected").iterdir()).write_bytes(b"no table")
    with pytest.raises(UserError, match="build the corpus again"):
        why(broken, "a/a.py")
