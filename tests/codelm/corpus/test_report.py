"""report.html."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.config.corpus import CorpusConfig, Execution, LicensePolicy
from codelm.corpus.build import build
from codelm.corpus.report import counted, licenses, percent, size, steps, write_report
from codelm.stage import Manifest

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tree: Tree, code: Code) -> Path:
    """Some of everything, with a name that wants to be a tag."""
    top = tmp_path_factory.mktemp("report")
    files = {f"{name}/{name}.py": code(name) for name in "abcdefgh"} | {
        f"{name}.c": f"int {name}(void);\n" * 2 for name in "xy"
    }
    files |= {"copy.py": code("a"), "mail.py": 'OWNER = "m.kowalska@acme-tools.io"\n' + code("mail")}
    files |= {"<script>alert(1)<": "words", "gpl.py": "# SPDX-License-Identifier: GPL-3.0-only\n" + code("gpl")}
    files["<b>/bold.py"] = code("bold")
    source = tree(top / "project", dict(files))
    config = CorpusConfig(
        sources=[str(source)], licenses=LicensePolicy(unknown="keep"), execution=Execution(workers=1), balance={"alpha": 0.25}
    )
    build(top / "run" / "corpus", config)
    return top / "run" / "corpus"


def test_a_page_that_needs_nothing_else(corpus: Path, html_page: Any) -> None:
    text = (corpus / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    page = html_page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "b>"}
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)


def test_it_says_what_the_manifest_says(corpus: Path, html_page: Any) -> None:
    counts = Manifest.read(corpus).counts
    shown = " ".join(html_page((corpus / "report.html").read_text(encoding="utf-8")).texts)
    assert counts["snapshot_id"] in shown
    assert f"of {counts['files_seen']:,} files kept" in shown
    for kind in ("rejected", "languages", "licenses", "redactions", "splits", "steps", "repos"):
        assert counts[kind]
        for name in counts[kind]:
            assert name in shown, (kind, name)
    assert "GPL-3.0-only" in shown
    assert "exponent 0.25" in shown
    assert "project/a/a.py" in shown  # the file that has a copy


def test_made_anew_it_is_the_same(corpus: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    before = (copy / "report.html").read_bytes()
    write_report(copy)
    assert (copy / "report.html").read_bytes() == before


def test_licenses(corpus: Path) -> None:
    found = {name: (kept["files"], dropped["files"]) for name, kept, dropped in licenses(corpus)}
    assert found["GPL-3.0-only"] == (0, 1)
    assert found["unknown"][0] == Manifest.read(corpus).counts["licenses"]["unknown"]["files"]


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.0001, "< 0.1 %"), (0.125, "12.5 %"), (0.9994, "99.9 %"), (1, "100 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e12, "3,000.0 GB")]
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_what_reads_nothing_has_no_speed() -> None:
    spent = {"files": 1, "bytes": 4e9, "seconds": 0.005}
    shown = {bar.name: bar.cells[-1] for bar in steps(dict.fromkeys(("listed", "language", "path", "bytes"), spent))}
    assert shown == {"listed": "–", "language": "–", "path": "–", "bytes": "800,000 MB/s"}


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (1234, "1,234 files")])
def test_counted(count: int, text: str) -> None:
    assert counted(count, "file") == text


def test_one_is_not_many(corpus: Path, html_page: Any) -> None:
    shown = " ".join(" ".join(html_page((corpus / "report.html").read_text(encoding="utf-8")).texts).split())
    assert "Left out: 1 duplicate (" in shown
    assert "0 near-duplicates (" in shown
    assert "1 kept file names its copies." in shown
    assert "from 1 source." in shown
    assert not re.search(r"(?<![\d,.])1 (files|sources|duplicates|copies)", shown)
