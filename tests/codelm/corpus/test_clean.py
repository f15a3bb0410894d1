"""What becomes of one file: the table in rejections.yaml, and what a table cannot write down."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelm.config.corpus import CorpusConfig, LicensePolicy
from codelm.corpus.build import build
from codelm.corpus.clean import Cleaner, Draft
from codelm.corpus.licenses.tree import Trees, collect
from codelm.corpus.read import read_rows
from codelm.corpus.rows import table
from codelm.corpus.sources.open import open_sources

KEEP = LicensePolicy(unknown="keep")

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]
Outcome = Callable[[str, str | bytes], tuple[dict[str, Any] | None, dict[str, Any] | None]]

CASES = yaml.safe_load((Path(__file__).parent / "rejections.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def outcome(tmp_path: Path, tree: Tree, code: Code) -> Outcome:
    """Path, content → (kept row, rejected row) of a file among two others that are always kept."""

    def build_with(path: str, content: str | bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        others = {"zz_one.py": code("one"), "zz_two.py": code("two")}
        source = tree(tmp_path / "project", {path: content, **others})
        corpus = tmp_path / "run" / "corpus"
        build(corpus, CorpusConfig(licenses=KEEP, sources=[str(source)]))
        rows = [dict(row) for split in ("train", "valid") for row in read_rows(corpus, split)]
        rejected = list(table(corpus / "rejected", ["repo", "path", "size", "reason", "detail"]))
        kept = [row for row in rows if row["path"] not in others]
        assert len(rows) - len(kept) == 2
        assert len(kept) + len(rejected) == 1
        return (kept or [None])[0], (rejected or [None])[0]

    return build_with


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_rejections(outcome: Outcome, code: Code, case: dict[str, Any]) -> None:
    unit = case.get("text", code("case")) * case.get("repeat", 1)
    content = (
        bytes.fromhex(case["hex"]) if "hex" in case else (case.get("prefix", "") + "\n".join([unit] * case.get("lines", 1)))
    )
    kept, rejected = outcome(case["path"], content)
    if case["reason"] is None:
        assert kept is not None
        assert kept["path"] == case["path"]
        for key, column in (("language", "language"), ("license", "license"), ("method", "license_method")):
            if key in case:
                assert kept[column] == case[key]
    else:
        assert rejected is not None
        assert (rejected["reason"], rejected["path"]) == (case["reason"], case.get("rejected_path", case["path"]))
        assert rejected["detail"] == case.get("detail", case.get("license", rejected["detail"]))


def test_crlf_and_bom_are_normalised_but_the_blob_is_the_bytes_on_disk(outcome: Outcome) -> None:
    kept, _ = outcome("a.py", b"\xef\xbb\xbfa = 1\r\nb = 2\r\nc = '\xc3\xa9'\r\n")
    assert kept is not None
    assert kept["content"] == "a = 1\nb = 2\nc = 'é'\n"
    assert kept["size"] == 27
    assert kept["blob_sha"] == "7e3175cafe08fa364d8c35b0d2ff84ed53d400df"
    assert kept["token_count"] == 11


def test_symlinks_are_not_followed(tmp_path: Path, tree: Tree, code: Code) -> None:
    outside = tree(tmp_path / "outside", {"secret.py": code("secret")})
    source = tree(tmp_path / "project", {"a.py": code("a"), "b.py": code("b")})
    (source / "loop").symlink_to(source, target_is_directory=True)
    (source / "out").symlink_to(outside, target_is_directory=True)
    (source / "file.py").symlink_to(outside / "secret.py")
    (source / "dangling.py").symlink_to("nowhere.py")
    os.mkfifo(source / "pipe.py")
    manifest = build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(source)]))
    assert manifest.counts["rejected"] == {"symlink": 4, "unreadable": 1}
    assert manifest.counts["files_kept"] == 2


def test_a_file_that_vanished_is_rejected_and_not_fatal(tmp_path: Path, tree: Tree, code: Code) -> None:
    folder = tree(tmp_path / "project", {"a.py": code("a"), "script": "#!/bin/sh\n"})
    (source,) = open_sources([str(folder)], run=tmp_path / "run")
    entries = [entry for piece in source.pieces(1_000_000) for entry in piece.entries()]
    assert len(entries) == 2
    for path in ("a.py", "script"):
        (folder / path).unlink()
    collect([], tmp_path / "licenses")
    cleaner = Cleaner(CorpusConfig(), Trees.open(tmp_path / "licenses"))
    assert {cleaner.reject(Draft(entry)) for entry in entries} == {("unreadable", "No such file or directory")}


def test_a_rule_that_fails_costs_one_file_and_not_the_build(tmp_path: Path, tree: Tree, code: Code) -> None:
    folder = tree(tmp_path / "project", {"a.py": code("a")})
    (source,) = open_sources([str(folder)], run=tmp_path / "run")
    collect([], tmp_path / "licenses")
    cleaner = Cleaner(CorpusConfig(), Trees.open(tmp_path / "licenses"))

    def syntax(draft: Draft) -> None:
        raise RecursionError("too deep")

    cleaner.rules = [syntax]
    (entry,) = (entry for piece in source.pieces(1_000_000) for entry in piece.entries())
    assert cleaner.reject(Draft(entry)) == ("error", "syntax: RecursionError: too deep")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_and_folder_are_rejected(tmp_path: Path, tree: Tree, code: Code) -> None:
    source = tree(tmp_path / "project", {"a.py": code("a"), "b.py": code("b"), "c.py": code("c"), "d/e.py": code("e")})
    (source / "c.py").chmod(0)
    (source / "d").chmod(0)
    try:
        manifest = build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(source)]))
    finally:
        (source / "d").chmod(0o700)
    assert manifest.counts["rejected"] == {"unreadable": 2}


def test_a_path_that_is_no_unicode(tmp_path: Path, tree: Tree, code: Code) -> None:
    source = tree(tmp_path / "project", {"a.py": code("a"), "b.py": code("b")})
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.py")).write_text(code("c"))
    build(tmp_path / "run" / "corpus", CorpusConfig(licenses=KEEP, sources=[str(source)]))
    rows = [row["path"] for split in ("train", "valid") for row in read_rows(tmp_path / "run" / "corpus", split)]
    assert sorted(rows) == ["a.py", "b.py", "caf\\xe9.py"]
