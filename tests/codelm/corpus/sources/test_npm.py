"""Installed npm packages."""

import json
from pathlib import Path

import pytest

from codelm.corpus.sources.base import Rejection
from codelm.corpus.sources.npm import NpmSource
from codelm.errors import UserError


def package(name: str, version: str = "1.0.0", license: str = "MIT") -> str:
    """A package.json."""
    return json.dumps({"name": name, "version": version, "license": license})


@pytest.fixture
def project(tmp_path: Path, tree) -> Path:
    """A project with packages, nested ones, a workspace, and what else is found in such folders."""
    root = tree(
        tmp_path / "project",
        {
            "package.json": package("project"),
            "index.js": "not installed",
            "node_modules/.bin/tool": "#!/usr/bin/env node",
            "node_modules/.package-lock.json": "{}",
            "node_modules/left/package.json": package("left", "2.0.0", "ISC"),
            "node_modules/left/index.js": "left",
            "node_modules/left/lib/deep/LICENSE": "of a part",
            "node_modules/left/node_modules/right/package.json": package("right", "0.9.0", "GPL-3.0-only"),
            "node_modules/left/node_modules/right/index.js": "old right",
            "node_modules/right/package.json": package("right"),
            "node_modules/right/index.js": "right",
            "node_modules/right/lib/node_modules/odd/index.js": "odd",
            "node_modules/@scope/one/package.json": package("@scope/one"),
            "node_modules/@scope/one/index.js": "one",
            "node_modules/broken/package.json": b'{"name": "\xff',
            "node_modules/broken/index.js": "broken",
            "node_modules/odd/package.json": '["no object"]',
            "node_modules/odd/index.js": "also odd",
            "packages/work/package.json": package("work"),
        },
    )
    (root / "node_modules" / "work").symlink_to("../packages/work")
    return root


def test_each_package_is_an_origin(project: Path, by_place) -> None:
    found = by_place(NpmSource("npm:", project / "node_modules").entries)
    code = {
        place: entry.rejection or entry.blob.read().decode() for place, entry in found.items() if "package.json" not in place
    }
    assert code == {
        "npm/left:index.js": "left",
        "npm/left:lib/deep/LICENSE": "of a part",
        "npm/right:index.js": "right",
        "npm/right-2:index.js": "old right",
        "npm/@scope/one:index.js": "one",
        "npm/broken:index.js": "broken",
        "npm/odd:index.js": "also odd",
        "npm/odd-2:index.js": "odd",
        "npm/work:work": Rejection("symlink", "not followed"),
    }
    origins = {entry.origin.repo: entry.origin for entry in found.values()}
    assert (origins["npm/left"].version, origins["npm/left"].license) == ("2.0.0", "ISC")
    assert (origins["npm/right"].license, origins["npm/right"].license_method) == ("MIT", "metadata")
    assert (origins["npm/right-2"].license, origins["npm/right-2"].version) == ("GPL-3.0-only", "0.9.0")
    assert (origins["npm/broken"].license, origins["npm/broken"].version) == (None, None)


def test_the_project_is_as_good_as_its_node_modules(project: Path) -> None:
    assert NpmSource("npm:", project).fingerprint == NpmSource("npm:", project / "node_modules").fingerprint


def test_pnpm(tmp_path: Path, tree, by_place) -> None:
    root = tree(
        tmp_path / "node_modules",
        {
            ".modules.yaml": "",
            ".pnpm/lock.yaml": "",
            ".pnpm/left@2.0.0/node_modules/left/package.json": package("left"),
            ".pnpm/@scope+one@1.0.0/node_modules/@scope/one/package.json": package("@scope/one"),
        },
    )
    (root / "left").symlink_to(".pnpm/left@2.0.0/node_modules/left")
    found = by_place(NpmSource("npm:", root).entries)
    assert sorted(found) == ["npm/@scope/one:package.json", "npm/left:left", "npm/left:package.json"]
    assert found["npm/left:left"].rejection == Rejection("symlink", "not followed")


def test_a_run_folder_is_no_part(project: Path) -> None:
    source = NpmSource("npm:", project, skip=project / "node_modules" / "left")
    assert not any(entry.origin.repo == "npm/left" for entry in source.entries)


def test_no_packages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no npm packages"):
        NpmSource("npm:", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.js").write_text("a")
    with pytest.raises(UserError, match="no npm packages"):
        NpmSource("npm:", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        NpmSource("npm:", tmp_path / "x")
