"""The corpus stage as a whole."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codelm.config.corpus import CorpusConfig, Dedup, LicensePolicy
from codelm.corpus.build import build
from codelm.corpus.read import read_rows
from codelm.corpus.rows import table
from codelm.errors import UserError
from codelm.stage import Manifest, file_sha256

KEEP = LicensePolicy(unknown="keep")

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]


@pytest.fixture
def project(tmp_path: Path, tree: Tree, code: Code) -> Path:
    """Ten small packages."""
    return tree(tmp_path / "project", {f"{name}/{name}.py": code(name) for name in "abcdefghij"})


def content(folder: Path) -> dict[str, str]:
    """Path → SHA-256 of all files but the manifest."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "report.html")
    }


def test_standard_library(stdlib_corpus: Path) -> None:
    rows = {split: list(read_rows(stdlib_corpus, split)) for split in ("train", "valid")}
    packages = {split: {row["path"].split("/")[0].split(".")[0] for row in found} for split, found in rows.items()}
    assert not packages["train"] & packages["valid"]
    everything = rows["train"] + rows["valid"]
    assert {row["repo"] for row in everything} == {"python/cpython"}
    assert {row["version"] for row in everything} == {sys.version.split()[0]}
    assert {row["license_method"] for row in everything if row["license"] == "PSF-2.0"} == {"distribution"}
    assert sum(row["license"] == "PSF-2.0" for row in everything) > 0.95 * len(everything)
    json_decoder = next(row for row in everything if row["path"] == "json/decoder.py")
    assert json_decoder["language"] == "Python"
    assert (
        json_decoder["source_url"] == f"https://github.com/python/cpython/blob/v{json_decoder['version']}/Lib/json/decoder.py"
    )
    counts = Manifest.read(stdlib_corpus).counts
    assert counts["files_seen"] == counts["files_kept"] + sum(counts["rejected"].values())
    assert counts["files_kept"] == len(everything)
    assert counts["languages"]["Python"]["files"] > 400
    share = counts["splits"]["valid"]["bytes"] / sum(split["bytes"] for split in counts["splits"].values())
    assert 0.05 < share <= 0.15


def test_the_same_sources_give_the_same_bytes(stdlib_corpus: Path, tmp_path: Path) -> None:
    again = tmp_path / "corpus"
    build(again, CorpusConfig())
    assert content(again) == content(stdlib_corpus)
    assert Manifest.read(again).fingerprint == Manifest.read(stdlib_corpus).fingerprint


def test_nothing_is_done_twice_and_an_edit_is_seen(tmp_path: Path, project: Path) -> None:
    corpus = project / "runs" / "mine" / "corpus"  # a run inside its own source is no part of it
    config = CorpusConfig(licenses=KEEP, sources=[str(project)])
    first = build(corpus, config)
    shown = (corpus / "manifest.json").stat().st_mtime_ns
    reports: list[float] = []
    assert build(corpus, config, lambda done, total=None, **facts: reports.append(done)) == first
    assert (corpus / "manifest.json").stat().st_mtime_ns == shown
    assert reports == []
    (project / "a" / "a.py").touch()
    os.utime(project / "a" / "a.py", ns=(1, 1))
    touched = build(corpus, config)
    assert touched.key != first.key
    assert touched.fingerprint == first.fingerprint, "same content: later stages need not run again"
    assert touched.counts["snapshot_id"] == first.counts["snapshot_id"]
    (project / "a" / "a.py").write_text("one = 1\ntwo = 2\nthree = 3\n")
    assert build(corpus, config).fingerprint != first.fingerprint
    assert build(corpus, CorpusConfig(licenses=KEEP, sources=[str(project)], seed=1)).seed == 1


def test_the_order_of_the_sources_is_part_of_the_snapshot(tmp_path: Path, tree: Tree, code: Code) -> None:
    one = tree(tmp_path / "one", {"a.py": code("a"), "same.py": code("same")})
    two = tree(tmp_path / "two", {"b.py": code("b"), "same.py": code("same")})
    built = [
        build(tmp_path / f"run-{number}" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(path) for path in order]))
        for number, order in enumerate([(one, two), (two, one)])
    ]
    assert built[0].counts["snapshot_id"] != built[1].counts["snapshot_id"]


def test_progress_goes_to_the_end(tmp_path: Path, project: Path) -> None:
    reports: list[tuple[float, float | None]] = []
    build(
        tmp_path / "run" / "corpus",
        CorpusConfig(licenses=KEEP, sources=[str(project)]),
        lambda done, total=None, **facts: reports.append((done, total)),
    )
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (1.0, 1.0)
    assert len({done for done, _ in reports}) > 4


def test_copies_are_kept_once_with_all_their_places(tmp_path: Path, tree: Tree, code: Code) -> None:
    spaced = code("same").replace("\n", "  \n") + "\n\n"
    source = tree(
        tmp_path / "project",
        {"a/one.py": code("same"), "b/two.py": spaced, "c/three.py": code("same"), "d/other.py": code("other")},
    )
    corpus = tmp_path / "run" / "corpus"
    manifest = build(corpus, CorpusConfig(licenses=KEEP, sources=[str(source)]))
    rows = {row["path"]: row for split in ("train", "valid") for row in read_rows(corpus, split)}
    assert set(rows) == {"a/one.py", "d/other.py"}
    assert [(copy["repo"], copy["path"]) for copy in rows["a/one.py"]["also_in"]] == [
        ("project", "b/two.py"),
        ("project", "c/three.py"),
    ]
    assert rows["d/other.py"]["also_in"] == []
    assert manifest.counts["rejected"] == {"duplicate": 2}
    (detail, *_) = {row["detail"] for row in table(corpus / "rejected", ["detail"])}
    assert detail == "project/a/one.py"


def test_a_single_package_is_split_by_what_is_in_it(tmp_path: Path, tree: Tree, code: Code) -> None:
    source = tree(tmp_path / "project", {f"src/pkg/{name}.py": code(name) for name in "abcdef"})
    counts = build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(source)])).counts
    assert counts["splits"]["train"]["files"] == 5
    assert counts["splits"]["valid"]["files"] == 1


def test_a_git_checkout_gives_commit_and_address_without_credentials(tmp_path: Path, project: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    git("remote", "add", "origin", "https://me:secret@github.com/ada/engine.git")
    corpus = tmp_path / "run" / "corpus"
    build(corpus, CorpusConfig(licenses=KEEP, sources=[str(project)]))
    commit = git("rev-parse", "HEAD").strip()
    rows = {row["path"]: row for row in read_rows(corpus, "train")}
    path, row = next(iter(rows.items()))
    assert (row["repo"], row["version"]) == ("ada/engine", commit)
    assert row["source_url"] == f"https://github.com/ada/engine/blob/{commit}/{path}"
    assert row["blob_sha"] == git("rev-parse", f"HEAD:{path}").strip()


def test_sources_of_one_name_stay_apart(tmp_path: Path, tree: Tree, code: Code) -> None:
    one = tree(tmp_path / "one" / "src", {"a.py": code("a"), "b.py": code("b")})
    two = tree(tmp_path / "two" / "src", {"a.py": code("c"), "b.py": code("d")})
    corpus = tmp_path / "run" / "corpus"
    build(corpus, CorpusConfig(licenses=KEEP, sources=[str(one), str(two), str(one)]))
    rows = {(row["repo"], row["path"]) for split in ("train", "valid") for row in read_rows(corpus, split)}
    assert rows == {("src", "a.py"), ("src", "b.py"), ("src-2", "a.py"), ("src-2", "b.py")}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "nothing in it"),
        ({"a.txt": "prose", "b.md": "prose", "c.py": b"\0"}, r"no code to keep in 3 files \(rejected: language 2, binary 1\)"),
        ({"a.py": "one = 1\ntwo = 2\nthree = 3\n"}, "only one file"),
    ],
)
def test_too_little_code(tmp_path: Path, tree: Tree, files: dict[str, str | bytes], message: str) -> None:
    source = tmp_path / "project"
    source.mkdir()
    with pytest.raises(UserError, match=message):
        build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(tree(source, files))]))
    assert not (tmp_path / "run" / "corpus").exists()


def test_missing_source_and_file_as_source(tmp_path: Path, tree: Tree) -> None:
    tree(tmp_path, {"a.py": "x"})
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(tmp_path / "none")]))
    with pytest.raises(UserError, match="not a folder"):
        build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(tmp_path / "a.py")]))


DISK_FULL = """
import resource, sys
from pathlib import Path
from codelm.config.corpus import CorpusConfig, LicensePolicy
from codelm.corpus.build import build
from codelm.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    build(Path(sys.argv[1]), CorpusConfig(licenses=LicensePolicy(unknown="keep"), sources=[sys.argv[2]], seed=1))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def test_the_corpus_before_a_failing_build_still_stands(tmp_path: Path, project: Path) -> None:
    corpus = tmp_path / "run" / "corpus"
    build(corpus, CorpusConfig(licenses=KEEP, sources=[str(project)]))
    before = content(corpus)
    command = [sys.executable, "-c", DISK_FULL, str(corpus), str(project)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, result.stderr
    assert "file too large while writing" in result.stdout
    assert "Traceback" not in result.stderr
    assert content(corpus) == before
    assert {path.name for path in corpus.parent.iterdir()} <= {"corpus", ".corpus.work"}


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_a_broken_file_is_named(tmp_path: Path, project: Path, damage: str) -> None:
    corpus = tmp_path / "run" / "corpus"
    build(corpus, CorpusConfig(licenses=KEEP, sources=[str(project)]))
    file = corpus / "snapshot" / "train-00000.parquet"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else data[:200] + b"\xff" * 400 + data[600:])
    with pytest.raises(UserError, match="holds no train rows" if damage == "missing" else "train-00000.parquet"):
        list(read_rows(corpus, "train"))


def test_some_columns(stdlib_corpus: Path) -> None:
    assert set(next(read_rows(stdlib_corpus, "valid", columns=["size", "path"]))) == {"size", "path"}


def test_opt_outs_that_leave_nothing_or_match_nothing(tmp_path: Path, project: Path) -> None:
    def settings(*patterns: str) -> CorpusConfig:
        return CorpusConfig(licenses=KEEP, sources=[str(project)], opt_outs=list(patterns))

    with pytest.raises(UserError, match=r"opt_outs leave no (train|valid) code"):
        build(tmp_path / "run" / "corpus", settings("project/*"))
    manifest = build(tmp_path / "run" / "corpus", settings("typo/a*"))
    assert any("'typo/a*' matches nothing" in warning for warning in manifest.counts["warnings"])


def test_what_cannot_be_read_is_warned_of(tmp_path: Path, project: Path) -> None:
    (project / "rows.jsonl").write_bytes(b"no JSON\n")
    sources = [str(project), f"jsonl:{project / 'rows.jsonl'}"]
    manifest = build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=sources))
    assert any("1 could not be read" in warning and "rows.jsonl" in warning for warning in manifest.counts["warnings"])


def test_a_signature_that_finds_too_little_is_warned_of(tmp_path: Path, project: Path) -> None:
    config = CorpusConfig(licenses=KEEP, sources=[str(project)], dedup=Dedup(bands=10, rows=20))
    manifest = build(tmp_path / "run" / "corpus", config)
    assert any("10 bands of 20 rows" in warning for warning in manifest.counts["warnings"])
