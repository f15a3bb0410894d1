"""What the user writes, as CorpusConfig takes it, becomes sources."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from codelm.config.corpus import CorpusConfig
from codelm.corpus.sources.base import load_piece, save_piece
from codelm.corpus.sources.folder import FolderSource, StandardLibrary
from codelm.corpus.sources.git import GitSource
from codelm.corpus.sources.npm import NpmSource
from codelm.corpus.sources.open import open_sources
from codelm.corpus.sources.python import PythonSource
from codelm.corpus.sources.tables import TableSource
from codelm.errors import UserError


@pytest.fixture
def places(tmp_path: Path, tree, git) -> Path:
    """One of each kind."""
    root = tree(
        tmp_path / "places",
        {
            "code/a.py": "a = 1\n",
            "other/code/b.py": "b = 2\n",
            "with@sign/c.py": "c = 3\n",
            "site-packages/alpha.py": "alpha = 1\n",
            "site-packages/alpha-1.dist-info/METADATA": "Name: alpha\nVersion: 1\nLicense-Expression: MIT\n",
            "site-packages/alpha-1.dist-info/RECORD": "alpha.py,,\n",
            "site-packages/alpha-1.dist-info/LICENSE": "text",
            "node_modules/left/package.json": '{"name": "left", "license": "ISC"}',
            "rows.jsonl": json.dumps({"content": "d = 4\n", "path": "d.py"}),
        },
    )
    git(root / "with@sign", "init", "-q", "-b", "main")
    git(root / "with@sign", "add", "-A")
    git(root / "with@sign", "commit", "-qm", "first")
    return root


def test_one_of_each(places: Path, tmp_path: Path) -> None:
    given = [
        str(places / "code"),
        "stdlib",
        f"git:{places}/with@sign",
        f"git:{places}/with@sign@main",
        f"python:{places}/site-packages",
        f"npm:{places}/node_modules",
        f"jsonl:{places}/rows.jsonl",
    ]
    config = CorpusConfig(sources=given)
    opened = open_sources(config.sources, tmp_path / "run")
    kinds = [FolderSource, StandardLibrary, GitSource, GitSource, PythonSource, NpmSource, TableSource]
    for index, (source, kind) in enumerate(zip(opened, kinds, strict=True)):
        if index != 3:  # that is the same repository again, under another name
            assert isinstance(source, kind)
    assert [source.given for source in opened] == given
    assert [source.fingerprint for source in opened] == [
        source.fingerprint for source in open_sources(config.sources, tmp_path / "run")
    ]


def test_no_two_have_the_same_name(places: Path, tmp_path: Path) -> None:
    given = [str(places / "code"), str(places / "other" / "code"), f"python:{places}/site-packages"]
    sources = open_sources([*given, f"python:{places}//site-packages"], tmp_path / "run")
    assert [sorted({entry.origin.repo for entry in source.entries}) for source in sources] == [
        ["code"],
        ["code-2"],
        ["pypi/alpha"],
        ["pypi/alpha-2"],
    ]
    assert [entry.origin.repo for entry in sources[3].license_files()] == ["pypi/alpha-2"]
    assert sources[3].entries[0].origin.license == "MIT"
    assert sources[1].entries[0].blob.read() == b"b = 2\n"
    assert len({source.fingerprint for source in sources}) == 4


def test_pieces_can_be_written_down(places: Path, tmp_path: Path) -> None:
    given = [str(places / "code"), f"git:{places}/with@sign", f"jsonl:{places}/rows.jsonl"]
    read = []
    for source in open_sources(given, tmp_path / "run"):
        for piece in source.pieces(1000):
            save_piece(piece, tmp_path / "piece")
            read += [entry.blob.read() for entry in load_piece(tmp_path / "piece").entries()]
    assert read == [b"a = 1\n", b"c = 3\n", b"d = 4\n"]


def test_a_run_inside_a_source_is_no_part_of_it(places: Path, tree) -> None:
    tree(places / "code", {"runs/mine/corpus/x.py": "x", "runs/mine/rows.jsonl": json.dumps({"content": "x"})})
    (source,) = open_sources([str(places / "code")], places / "code" / "runs" / "mine")
    assert [entry.path for entry in source.entries] == ["a.py"]
    with pytest.raises(UserError, match=r"no \.jsonl"):
        open_sources([f"jsonl:{places}/code/runs/mine/rows.jsonl"], places / "code" / "runs" / "mine")


def test_what_is_not_there(places: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, message in {
        str(tmp_path / "x"): "no such folder",
        str(tmp_path / "empty"): "nothing in it",
        f"git:{places}/code": "not a git repository",
        f"git:{places}/with@sign@v9": "no commit 'v9'",
        f"python:{places}/code": "no Python packages",
        f"npm:{places}/code": "no npm packages",
        f"npm:{places}/other": "no npm packages",
        f"jsonl:{places}/x.jsonl": "no such file",
        f"parquet:{places}": r"no \.parquet",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            open_sources([given], tmp_path / "run")
        assert given in error.value.message
        assert error.value.fix


@pytest.mark.parametrize("given", ["npm:", "jsonl:", "parquet:", "git:", "git:@main"])
def test_a_kind_alone_is_not_the_current_folder(places: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places)
    with pytest.raises(UserError, match=f"{given} names no place") as error:
        open_sources(CorpusConfig(sources=[given]).sources, places / "run")
    assert given.partition("@")[0] in error.value.fix


@pytest.mark.parametrize("given", ["https://example.org/a.git", "git:https://example.org/a.git", "git:git@example.org:a/b.git"])
def test_what_is_elsewhere_has_to_be_cloned_first(given: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, ValueError)) as error:
        open_sources(CorpusConfig(sources=[given]).sources, tmp_path / "run")
    assert "git clone --bare" in f"{error.value} {getattr(error.value, 'fix', '')}"


@pytest.mark.parametrize("kind", ["", "git:", "npm:", "python:", "jsonl:", "parquet:"])
@pytest.mark.parametrize("mode", [0, 0o600, 0o300])
def test_a_place_that_may_not_be_entered(tree, kind: str, mode: int) -> None:
    """Looked at by somebody who is not root, whoever runs the tests. 0o600: may not be entered, 0o300: may not be listed."""
    with tempfile.TemporaryDirectory() as name:
        root = tree(Path(name), {"locked/inside/a.py": "a = 1\n", "locked/.git/HEAD": "", "run/x": ""})
        root.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(root / "locked", 65534, 65534)
        (root / "locked").chmod(mode)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setuid(65534)
            for place in (root / "locked", root / "locked" / "inside"):
                try:
                    open_sources([f"{kind}{place}"], root / "run")
                    said = "opened\n"
                except UserError as error:
                    said = f"UserError {error.message}\n"
                except BaseException as error:
                    said = f"{error!r}\n"
                os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            locked, inside = pipe.read().splitlines()
        (root / "locked").chmod(0o700)
    assert locked.startswith(f"UserError {kind}{root}/locked: ")
    if mode != 0o300:
        assert inside == f"UserError {kind}{root}/locked/inside: Permission denied"
