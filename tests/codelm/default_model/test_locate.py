"""The default model is found whole, or it is said what is wrong with it."""

import shutil
from pathlib import Path

import pytest

from codelm.default_model.locate import BUNDLE, about, default_model, named
from codelm.errors import UserError


def test_it_is_found_and_known(default_bundle: Path) -> None:
    path = default_model(default_bundle)
    assert path == default_bundle / "tiny-q8_0.gguf"
    manifest = about(default_bundle)
    assert manifest
    assert manifest.counts["bytes"] == path.stat().st_size


def test_there_may_be_none(tmp_path: Path) -> None:
    assert about(tmp_path) is None
    with pytest.raises(UserError, match="this installation of codelm has no default model; name a model of your own"):
        default_model(tmp_path)


def test_it_has_a_name_unless_something_else_has_it(
    default_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codelm.default_model.locate.BUNDLE", default_bundle)
    monkeypatch.chdir(tmp_path)
    assert named(Path("default")) == default_bundle / "tiny-q8_0.gguf"
    assert named(Path("runs/default")) == Path("runs/default")
    Path("default").mkdir()
    assert named(Path("default")) == Path("default")


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest", "another manifest"])
def test_damage_is_told(default_bundle: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(default_bundle, folder)
    model, manifest = folder / "tiny-q8_0.gguf", folder / "manifest.json"
    data = bytearray(model.read_bytes())
    if damage == "cut":
        model.write_bytes(data[:-1])
    elif damage == "changed":
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif damage == "gone":
        model.unlink()
    else:
        manifest.write_text("{" if damage == "manifest" else manifest.read_text(encoding="utf-8").replace('"model"', '"x"'))
    with pytest.raises(UserError, match=r"the default model.* is damaged"):
        default_model(folder)


@pytest.mark.skipif(about(BUNDLE) is None, reason="no default model has been made")
def test_the_one_that_codelm_brings_along_is_whole_and_small() -> None:
    from codelm.stage import file_sha256

    manifest = about()
    assert manifest
    assert default_model().stat().st_size == manifest.counts["bytes"] <= 25_000_000
    for name, sha256 in manifest.outputs.items():
        assert file_sha256(BUNDLE / name) == sha256, name
