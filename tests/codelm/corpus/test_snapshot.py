"""What can be done with a finished corpus."""

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codelm.config.corpus import CorpusConfig
from codelm.corpus.build import build
from codelm.corpus.export import export
from codelm.corpus.rows import ROW, table
from codelm.corpus.snapshot import diff, remove, verify
from codelm.corpus.sources.open import open_sources
from codelm.corpus.status import status
from codelm.corpus.why import why
from codelm.errors import UserError
from codelm.stage import Manifest, file_sha256

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]


def config(*sources: Path, **settings: object) -> CorpusConfig:
    """Settings for these sources, in one process."""
    given = {"licenses": {"unknown": "keep"}, "execution": {"workers": 1}} | settings
    return CorpusConfig.model_validate({"sources": [str(source) for source in sources]} | given)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, tree: Tree, code: Code) -> tuple[Path, Path]:
    """Two folders: the second has a copy of a file of the first, the first a chain of imports and a GPL file."""
    top = tmp_path_factory.mktemp("sources")
    files: dict[str, str | bytes] = {f"{name}/{name}.py": code(name) for name in "abcdefgh"}
    files["chain/a.py"] = "import chain.b\n" + code("chain_a")
    files["chain/b.py"] = "import chain.c\n" + code("chain_b")
    files["chain/c.py"] = code("chain_c")
    files["gpl.py"] = "# SPDX-License-Identifier: GPL-3.0-only\n" + code("gpl")
    files["mail.py"] = 'OWNER = "m.kowalska@acme-tools.io"\n' + code("mail")
    one = tree(top / "one", files)
    others: dict[str, str | bytes] = {f"{name}/{name}.py": code(f"two_{name}") for name in "stuvw"}
    return one, tree(top / "two", others | {"copy/of_a.py": code("a")})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, sources: tuple[Path, Path]) -> Path:
    """Their corpus."""
    folder = tmp_path_factory.mktemp("built") / "corpus"
    build(folder, config(*sources))
    return folder


@pytest.fixture
def corpus(tmp_path: Path, built: Path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(built, tmp_path / "run" / "corpus"))


def paths(folder: Path) -> set[str]:
    return {row["path"] for row in table(folder / "snapshot", ["path"])}


def shards(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in (folder / "snapshot").iterdir()}


def test_a_whole_corpus_is_whole(corpus: Path) -> None:
    assert verify(corpus) == []


def test_verify_finds_what_is_missing_changed_and_added(corpus: Path) -> None:
    shard = next((corpus / "snapshot").glob("train*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (corpus / "NOTICE.txt").unlink()
    (corpus / "snapshot" / "more.txt").write_text("")
    problems = verify(corpus)
    assert f"snapshot/{shard.name}: changed since it was written" in problems
    assert "NOTICE.txt: missing" in problems
    assert "snapshot/more.txt: not in the manifest" in problems


def test_verify_looks_into_files_whose_hashes_are_right(corpus: Path) -> None:
    """Somebody changes a shard and its hash in the manifest."""
    shard = next((corpus / "snapshot").glob("train*"))
    rows = pq.read_table(shard).to_pylist()
    rows[0]["split"] = "valid"
    rows[1] = rows[2]
    pq.write_table(pa.Table.from_pylist(rows, schema=ROW), shard)
    manifest = Manifest.read(corpus)
    manifest.outputs[f"snapshot/{shard.name}"] = file_sha256(shard)
    manifest.config["opt_outs"] = ["two/s"]
    (corpus / "manifest.json").write_text(manifest.model_dump_json())
    problems = "\n".join(verify(corpus))
    for said in ("says valid and stands in", "twice in the corpus", "shares its position", "snapshot id", "is opted out"):
        assert said in problems


@pytest.mark.parametrize("broken", [b"", b"PAR1", b"no table at all"])
def test_a_truncated_table_is_told_and_no_crash(corpus: Path, broken: bytes) -> None:
    next((corpus / "snapshot").glob("train*")).write_bytes(broken)
    assert len(verify(corpus)) == 2  # the hash, and what Parquet says of it
    for act in (lambda: diff(corpus, corpus), lambda: remove(corpus, ["one"]), lambda: export(corpus, corpus / "x", "jsonl")):
        with pytest.raises(UserError):
            act()


def test_no_corpus(tmp_path: Path) -> None:
    for act in (
        lambda: verify(tmp_path),
        lambda: diff(tmp_path, tmp_path),
        lambda: remove(tmp_path, ["x"]),
        lambda: export(tmp_path, tmp_path / "x", "jsonl"),
    ):
        with pytest.raises(UserError):
            act()


def test_remove_makes_the_corpus_that_a_build_would_have_made(corpus: Path, tmp_path: Path, sources: tuple[Path, Path]) -> None:
    order = {row["path"]: row["order"] for row in table(corpus / "snapshot", ["path", "order"])}
    assert order["chain/c.py"] < order["chain/b.py"] < order["chain/a.py"]
    before = Manifest.read(corpus)
    after = remove(corpus, ["one/chain/b.py", "two/s"])
    afresh = build(tmp_path / "afresh" / "corpus", config(*sources, opt_outs=["one/chain/b.py", "two/s"]))
    assert shards(corpus) == shards(tmp_path / "afresh" / "corpus")
    assert after.key == afresh.key
    for name in ("snapshot_id", "files_kept", "rejected", "languages", "repos", "mixture", "redactions"):
        assert after.counts[name] == afresh.counts[name], name
    assert after.counts["snapshot_id"] != before.counts["snapshot_id"]
    assert after.counts["files_kept"] == before.counts["files_kept"] - 2
    assert verify(corpus) == []
    # the build that knows of it has nothing to do
    assert build(corpus, config(*sources, opt_outs=["one/chain/b.py", "two/s"])).created == after.created


def test_a_copy_of_opted_out_code_goes_too(corpus: Path) -> None:
    assert "a/a.py" in paths(corpus)
    remove(corpus, ["two/copy/*"])
    assert "a/a.py" not in paths(corpus)
    gone = [row for row in table(corpus / "rejected", ["repo", "path", "reason", "detail"]) if row["reason"] == "opt_out"]
    assert gone == [{"repo": "one", "path": "a/a.py", "reason": "opt_out", "detail": "two/copy/*"}]
    assert "a/a.py" not in (corpus / "NOTICE.txt").read_text()


def test_remove_twice_keeps_both(corpus: Path) -> None:
    remove(corpus, ["one/b"])
    after = remove(corpus, ["one/c/*.py"])
    assert after.config["opt_outs"] == ["one/b", "one/c/*.py"]
    assert after.counts["rejected"]["opt_out"] == 2
    assert not {"b/b.py", "c/c.py"} & paths(corpus)
    assert verify(corpus) == []


@pytest.mark.parametrize("patterns", [["nothing/*"], ["one/b", "nothing"], ["*"]])
def test_remove_that_cannot_be_leaves_all_as_it_was(corpus: Path, patterns: list[str]) -> None:
    before = shards(corpus)
    with pytest.raises(UserError):
        remove(corpus, patterns)
    assert shards(corpus) == before
    assert verify(corpus) == []


def test_diff_of_the_same(corpus: Path, built: Path) -> None:
    found = diff(built, corpus)
    assert not found
    assert not found.settings
    assert not found.inputs


def test_diff(corpus: Path, built: Path, sources: tuple[Path, Path], tmp_path: Path, tree: Tree, code: Code) -> None:
    changed = Path(shutil.copytree(sources[0], tmp_path / "one"))
    tree(changed, {"b/b.py": code("other"), "new/new.py": code("new")})
    (changed / "c" / "c.py").unlink()
    build(tmp_path / "other" / "corpus", config(changed, sources[1], redact={"emails": False}))
    found = diff(built, tmp_path / "other" / "corpus")
    assert found
    assert found.added == ["one/new/new.py"]
    assert found.removed == ["one/c/c.py"]
    assert found.changed == ["one/b/b.py", "one/mail.py"]  # the address stays in the latter now
    assert found.settings["redact.emails"] == (True, False)
    assert str(sources[0]) in found.inputs
    before, after = found.languages["Python"]
    assert after != before


@pytest.mark.parametrize("name", ["code.jsonl", "code.jsonl.gz", "code.parquet"])
def test_export_gives_every_row(corpus: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    count = export(corpus, out, "parquet" if name.endswith("parquet") else "jsonl")
    expected = [row for path in sorted((corpus / "snapshot").iterdir()) for row in pq.read_table(path).to_pylist()]
    if name.endswith("parquet"):
        found = pq.read_table(out).to_pylist()
    else:
        lines = (gzip.decompress(out.read_bytes()) if name.endswith("gz") else out.read_bytes()).splitlines()
        found = [json.loads(line) for line in lines]
    assert found == expected
    assert count == len(expected) == Manifest.read(corpus).counts["files_kept"]
    first = out.read_bytes()
    export(corpus, out, "parquet" if name.endswith("parquet") else "jsonl")
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_export_of_a_split(corpus: Path, tmp_path: Path) -> None:
    count = export(corpus, tmp_path / "valid.jsonl", "jsonl", split="valid")
    assert count == Manifest.read(corpus).counts["splits"]["valid"]["files"]
    assert all(json.loads(line)["split"] == "valid" for line in (tmp_path / "valid.jsonl").read_text().splitlines())
    with pytest.raises(UserError, match="known: "):
        export(corpus, tmp_path / "x.jsonl", "jsonl", split="test")
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        export(corpus, tmp_path / "x.jsonl")


def test_status(corpus: Path, tmp_path: Path) -> None:
    found = status(corpus)
    assert found.manifest is not None
    assert found.bytes_on_disk > 1000
    assert found.unfinished is None
    nothing = status(tmp_path / "none")
    assert nothing.manifest is None
    assert nothing.unfinished is None


def test_status_of_a_killed_build(tmp_path: Path, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codelm.corpus.build.decide", die)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "corpus", config(*sources))
    found = status(tmp_path / "corpus")
    assert found.manifest is None
    assert found.unfinished is not None
    assert found.unfinished.step == "decide"
    assert found.unfinished.bytes_done == found.unfinished.bytes > 0


@pytest.mark.parametrize("ending", ["gz", "zst", "bz2"])
def test_a_compressed_export_can_be_a_source(stdlib_corpus: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.jsonl.{ending}"
    count = export(stdlib_corpus, out, "jsonl", split="valid")
    (source,) = open_sources([f"jsonl:{out}"], run=tmp_path / "run")
    entries = [entry for piece in source.pieces(1_000_000) for entry in piece.entries()]
    assert len(entries) == count
    assert all(entry.rejection is None for entry in entries)


def test_an_export_goes_only_where_a_file_belongs(stdlib_corpus: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    link = tmp_path / "link.jsonl"
    link.symlink_to(pipe)
    for out, message in [
        (pipe, "no regular file"),
        (link, "no regular file"),
        (tmp_path / "none" / "x.jsonl", "no such folder"),
        (tmp_path / "x.jsonl.xz", "not known"),
        (tmp_path / "x", "not known"),
    ]:
        with pytest.raises(UserError, match=message):
            export(stdlib_corpus, out)
    with pytest.raises(UserError, match="not the ending of jsonl"):
        export(stdlib_corpus, tmp_path / "x.parquet", "jsonl")
    with pytest.raises(UserError, match="not known"):
        export(stdlib_corpus, tmp_path / "x.parquet.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "pipe.jsonl"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_missing_shard_is_noticed(stdlib_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(stdlib_corpus, corpus)
    (corpus / "snapshot" / "valid-00000.parquet").unlink()
    with pytest.raises(UserError, match=r"valid-00000\.parquet is missing"):
        export(corpus, tmp_path / "x.jsonl", "jsonl")
    with pytest.raises(UserError, match=r"valid-00000\.parquet is missing"):
        why(corpus, "json/decoder.py")
    with pytest.raises(UserError, match=r"valid-00000\.parquet is missing"):
        diff(stdlib_corpus, corpus)
    with pytest.raises(UserError, match=r"valid-00000\.parquet is missing"):
        remove(corpus, ["*/idlelib"])


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "manifest.json").mkdir(parents=True)
    for look in (verify, status):
        with pytest.raises(UserError, match="cannot be read"):
            look(corpus)
