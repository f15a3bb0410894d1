"""A run becomes the bundle of a default model."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from codelm.default_model import pack as module
from codelm.default_model.locate import default_model
from codelm.default_model.pack import METRICS, RECORD, ROWS, pack, rescore, thinned
from codelm.errors import UserError
from codelm.evaluation.evaluate import FILE as SCORES
from codelm.export.export import CARD
from codelm.stage import Manifest, file_sha256


@pytest.fixture
def parts(run: Path, gguf: Path, trained: Path, permissive_corpus: Path, as_served: Path) -> dict[str, Path]:
    """The arguments of `pack` but the first."""
    return {
        "model": gguf,
        "pretrain": trained,
        "corpus": permissive_corpus,
        "evaluation": run / "evaluate",
        "as_served": as_served,
    }


def test_it_holds_the_model_and_where_it_comes_from(default_bundle: Path, gguf: Path, permissive_corpus: Path) -> None:
    files = {path.name for path in default_bundle.iterdir()}
    assert files == {
        *("tiny-q8_0.gguf", CARD, RECORD, METRICS, SCORES, "scores.png", "loss.png", "preset.yaml"),
        *("NOTICE.txt", "licenses.zip", "manifest.json"),
    }
    assert (default_bundle / "tiny-q8_0.gguf").read_bytes() == gguf.read_bytes()
    record = json.loads((default_bundle / RECORD).read_text(encoding="utf-8"))
    corpus = Manifest.read(permissive_corpus)
    assert record["corpus"]["counts"]["snapshot_id"] == corpus.counts["snapshot_id"]
    assert record["corpus"]["counts"]["licenses"] == corpus.counts["licenses"]
    assert record["training"]["counts"]["tokens"] == Manifest.read(default_bundle).counts["tokens"] > 0
    systems = json.loads((default_bundle / SCORES).read_text(encoding="utf-8"))["systems"]
    assert [system["name"] for system in systems] == ["tiny-q8_0.gguf", "tiny"]
    assert systems[0]["bits_per_byte"] is None
    assert systems[1]["bits_per_byte"]["value"] == Manifest.read(default_bundle).counts["bits_per_byte"]
    rows = [json.loads(line) for line in (default_bundle / METRICS).read_text(encoding="utf-8").splitlines()]
    assert any("valid_bits_per_byte" in row for row in rows)
    assert not any("batch_crc32" in row for row in rows)


def test_the_notice_and_its_texts(default_bundle: Path, permissive_corpus: Path) -> None:
    notice = (default_bundle / "NOTICE.txt").read_text(encoding="utf-8")
    assert "Texts are in licenses.zip" in notice
    with zipfile.ZipFile(default_bundle / "licenses.zip") as archive:
        for name in archive.namelist():
            assert hashlib.sha256(archive.read(name)).hexdigest() in name
        texts = set(archive.namelist())
    assert texts == {f"licenses/{path.name}" for path in (permissive_corpus / "licenses").glob("*.txt")}


def test_the_card_tells_all_of_it(default_bundle: Path) -> None:
    card = (default_bundle / CARD).read_text(encoding="utf-8")
    for told in ("What it is for", "tiny-q8_0.gguf", "![loss](loss.png)", "![scores](scores.png)", "AdamW", "204,800", "HPND"):
        assert told in card, told
    assert "None" not in card


def test_rows_of_a_long_log_are_thinned() -> None:
    rows: list[dict[str, Any]] = [{"step": step, "loss": 1.0, "batch_crc32": 7} for step in range(5 * ROWS)]
    rows[777]["valid_bits_per_byte"] = 2.0
    kept = [json.loads(line) for line in thinned("".join(json.dumps(row) + "\n" for row in rows)).splitlines()]
    assert ROWS <= len(kept) <= ROWS + 1
    assert {"step": 777, "loss": 1.0, "valid_bits_per_byte": 2.0} in kept


def begun_with(trained: Path, sha256: str, folder: Path) -> Path:
    """That training, as if it had begun with an exported model."""
    shutil.copytree(trained, folder)
    manifest = Manifest.read(folder)
    first = {"name": "first.gguf", "sha256": sha256, "trained_tokens": 7, "corpus_fingerprint": "c" * 64}
    counts = manifest.counts | {"models": {"from": {"name": "trunk", "sha256": "b" * 64, "models": {"init": first}}}}
    (folder / "manifest.json").write_text(manifest.model_copy(update={"counts": counts}).model_dump_json(), encoding="utf-8")
    return folder


def test_the_notices_of_the_model_that_it_began_with_stay(parts: dict[str, Path], default_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle, bundle)
    parts["pretrain"] = begun_with(parts["pretrain"], file_sha256(bundle / "tiny-q8_0.gguf"), tmp_path / "pretrain")
    earlier = (bundle / "NOTICE.txt").read_text(encoding="utf-8")
    pack(bundle, **parts)
    assert (bundle / "NOTICE.txt").read_text(encoding="utf-8") == earlier, "of the same corpus, it is told once"

    shutil.rmtree(bundle)
    shutil.copytree(default_bundle, bundle)
    (bundle / "NOTICE.txt").write_text("the works of others\n", encoding="utf-8")
    with zipfile.ZipFile(bundle / "licenses.zip", "w") as archive:
        archive.writestr("licenses/other.txt", "its terms")
    pack(bundle, **parts)
    notice = (bundle / "NOTICE.txt").read_text(encoding="utf-8")
    assert notice.startswith(earlier)
    assert notice.endswith("Of that one:\n\nthe works of others\n")
    with zipfile.ZipFile(bundle / "licenses.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        assert archive.read("licenses/other.txt") == b"its terms"
    assert names == {"other.txt"} | {path.name for path in (parts["corpus"] / "licenses").glob("*.txt")}
    assert Manifest.read(bundle).counts["tokens"] == Manifest.read(parts["pretrain"]).counts["tokens"] + 7
    assert "`first.gguf`" in (bundle / CARD).read_text(encoding="utf-8")


@pytest.fixture
def other_scores(parts: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Evaluations of that model that came out differently: of the checkpoint, and as it is served."""
    folders = tmp_path / "evaluation", tmp_path / "as-served"
    for folder, name in zip(folders, ("evaluation", "as_served"), strict=True):
        shutil.copytree(parts[name], folder)
    scores = json.loads((folders[0] / SCORES).read_text(encoding="utf-8"))
    scores["systems"][0]["end_of_line"]["exact_match"]["value"] = 0.125
    (folders[0] / SCORES).write_text(json.dumps(scores), encoding="utf-8")
    manifest = Manifest.read(folders[0])
    counts = manifest.counts | {"exact_match": 0.125}
    (folders[0] / "manifest.json").write_text(
        manifest.model_copy(update={"counts": counts}).model_dump_json(), encoding="utf-8"
    )
    return folders


def test_other_scores_of_the_same_weights(default_bundle: Path, other_scores: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle, bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    rescore(bundle, *other_scores)
    after = {path.name: path.read_bytes() for path in bundle.iterdir()}
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"tiny-q8_0.gguf", CARD, RECORD, SCORES, "scores.png", "manifest.json"}
    (row,) = set(after[CARD].decode().splitlines()) - set(before[CARD].decode().splitlines())
    assert row.startswith("| tiny | ")
    assert "12.5 % (" in row
    assert Manifest.read(bundle).counts["exact_match"] == 0.125
    was, now = (GGUFReader(folder / "tiny-q8_0.gguf") for folder in (default_bundle, bundle))
    said, says = ({name: value.contents() for name, value in file.fields.items() if "codelm" in name} for file in (was, now))
    assert says == said | {"codelm.exact_match": "0.125"}
    for tensor, same in zip(was.tensors, now.tensors, strict=True):
        assert tensor.data.tobytes() == same.data.tobytes()
    record = json.loads((bundle / RECORD).read_text(encoding="utf-8"))
    assert record["export"]["config"]["metadata"]["exact_match"] == 0.125


@pytest.mark.parametrize("change", ["policy", "size", "places", "first weights"])
def test_what_may_not_be_passed_on_leaves_the_bundle_that_stood(
    parts: dict[str, Path], default_bundle: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle, bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    if change == "policy":
        parts["corpus"], told = corpus, "was built with the licence policy"
    elif change == "size":
        monkeypatch.setattr(module, "LARGEST", 100_000)
        told = "a default model has 0 MB at most"
    elif change == "first weights":
        parts["pretrain"] = begun_with(parts["pretrain"], "0" * 64, tmp_path / "pretrain")
        told = "began with first.gguf, whose notices are not in"
    else:
        other = tmp_path / "other"
        shutil.copytree(parts["as_served"], other)
        manifest = Manifest.read(other)
        manifest.config["seed"] = 5
        (other / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        parts["as_served"], told = other, "are of other places"
    with pytest.raises(UserError, match=told):
        pack(bundle, **parts)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert default_model(bundle) == bundle / "tiny-q8_0.gguf"
