"""Licence files by folder, and which of all that is known about a file's licence counts."""

import os
import pickle
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest

from codelm.config.corpus import LicensePolicy
from codelm.corpus.licenses.policy import license_rejection
from codelm.corpus.licenses.tree import License, Trees, collect, is_license_name
from codelm.corpus.notice import write_notice
from codelm.corpus.sources.base import Entry, FileBlob, ListedSource, Origin, Rejection, TextBlob
from codelm.corpus.sources.folder import FolderSource
from codelm.corpus.sources.git import GitSource

MIT = Path(__file__).with_name("mit.txt").read_text(encoding="utf-8")
GPL3 = "        GNU GENERAL PUBLIC LICENSE\n       Version 3, 29 June 2007\n\n Copyright (C) 2007 Free Software Foundation\n"
ISC = """Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
provided that the above copyright notice and this permission notice appear in all copies.
"""
ODD = "You may look at this on Sundays.\n"
LESSER = """# This library is free software; you can redistribute it and/or
# modify it under the terms of the GNU Lesser General Public
# License as published by the Free Software Foundation; either
# version 2.1 of the License, or (at your option) any later version.
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without scancode, which takes seconds to start; test_texts has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("codelm.corpus.licenses.scancode.scancode_version", lambda: None)


def entries(files: dict[str, str | bytes], origin: Origin | None = None) -> list[Entry]:
    origin = origin or Origin("frob")
    data = {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}
    return [Entry(origin, path, TextBlob(content), len(content), "1") for path, content in data.items()]


def trees(folder: Path, listed: Iterable[Entry]) -> Trees:
    collect(listed, folder)
    return Trees.open(folder)


def ask(found: Trees, path: str, text: str = "", origin: Origin | None = None, **stated: str) -> tuple[str | None, str]:
    entry = Entry(origin or Origin("frob"), path, None, 0, "1", None, **stated)  # type: ignore[arg-type]
    answer = found.license(entry, text)
    assert 0 <= answer.confidence <= 1
    return answer.spdx, answer.method


@pytest.mark.parametrize(
    "path",
    [
        "LICENSE",
        "licence",
        "License.txt",
        "a/b/LICENSE.md",
        "LICENSE-MIT",
        "LICENSE_1_0.txt",
        "LICENSE.APACHE",
        "LICENSE-2.0.txt",
        "UNLICENSE",
        "COPYING",
        "COPYING.LESSER",
        "COPYING3",
        "COPYING.LIB",
        "COPYRIGHT",
        "copyright.txt",
        "NOTICE",
        "NOTICE.txt",
        "MIT-LICENSE.txt",
        "GPL-LICENSE",
        "LICENSES/MIT.txt",
        "a/LICENSES/CC0-1.0.txt",
        "LICENSES/preferred/GPL-2.0",
        "licenses.txt",
        "ThirdPartyNotices.txt",
        "THIRD-PARTY-LICENSES.md",
        "LICENSE (MIT).txt",
    ],
)
def test_names_of_licence_files(path: str) -> None:
    assert is_license_name(path)


@pytest.mark.parametrize(
    "path",
    [
        "license.py",
        "licenses/tree.py",
        "copying.c",
        "LICENSE.png",
        "license.json",
        "license.xml",
        "README",
        "licensed",
        "copyrights.js",
        "test_license.py",
        "licence-plate.ts",
        "x.py.license",
        "notice.rs",
        "LICENSES/README.md",
        "unlicensed.go",
        "",
        "licenses/a/b.txt",
    ],
)
def test_names_of_other_files(path: str) -> None:
    assert not is_license_name(path)


def test_the_nearest_licence_file_counts_and_the_more_restrictive_wins(tmp_path: Path) -> None:
    found = trees(tmp_path, entries({"LICENSE": MIT, "gpl/COPYING": GPL3, "isc/LICENSE": ISC, "odd/LICENSE": ODD}))
    assert ask(found, "a.py") == ("MIT", "file")
    assert ask(found, "isc/deep/a.py") == ("ISC", "file")
    assert ask(found, "a.py", "# SPDX-License-Identifier: ISC\n") == ("ISC", "header")
    assert ask(found, "a.py", LESSER) == ("LGPL-2.1-or-later", "header")
    assert ask(found, "gpl/deep/a.py") == ("GPL-3.0-only", "file")
    assert ask(found, "gpl/deep/a.py", "# SPDX-License-Identifier: MIT\n") == ("GPL-3.0-only", "file")
    assert ask(found, "odd/a.py") == (None, "unknown")
    assert ask(found, "odd/a.py", "# SPDX-License-Identifier: MIT\n") == ("MIT", "header")
    assert ask(found, "a.py", origin=Origin("other")) == (None, "unknown")
    assert found.license(Entry(Origin("frob"), "a.py", None, 0, "1"), "").copyright == ["Copyright (c) 2020 Ada Example"]


def test_what_a_package_states(tmp_path: Path) -> None:
    mit = Origin("frob", license="mit", license_method="metadata")
    found = trees(
        tmp_path, entries({"LICENSE": ODD, "vendor/x/LICENSE": ISC, "vendor/y/COPYING": GPL3, "vendor/z/LICENSE": ODD})
    )
    assert ask(found, "a.py", origin=mit) == ("MIT", "metadata")  # its own odd text is what the metadata are about
    assert ask(found, "vendor/x/a.py", origin=mit) == ("ISC", "file")
    assert ask(found, "vendor/y/a.py", origin=mit) == ("GPL-3.0-only", "file")
    assert ask(found, "vendor/z/a.py", origin=mit) == (None, "unknown")
    assert ask(found, "a.py", LESSER, origin=mit) == ("LGPL-2.1-or-later", "header")
    gpl = Origin("frob", license="GPL-2.0", license_method="metadata")
    assert ask(found, "vendor/x/a.py", origin=gpl) == ("GPL-2.0-only", "metadata")
    assert ask(found, "vendor/z/a.py", license="MIT", license_method="debian") == ("MIT", "debian")
    assert ask(found, "a.py", origin=gpl, license="Apache 2.0", license_method="column") == ("Apache-2.0", "column")
    assert ask(found, "a.py", origin=Origin("frob", license="no idea", license_method="metadata")) == (None, "unknown")


def test_a_distribution_states_it_for_all_its_files_but_those_that_say_otherwise(tmp_path: Path) -> None:
    python = Origin("python/cpython", license="PSF-2.0", license_method="distribution")
    found = trees(tmp_path, entries({"LICENSE.txt": GPL3}, python))
    assert ask(found, "a.py", origin=python) == ("PSF-2.0", "distribution")
    assert ask(found, "a.py", LESSER, origin=python) == ("LGPL-2.1-or-later", "header")
    assert ask(found, "a.py", "# SPDX-License-Identifier: ISC\n", origin=python) == ("ISC", "header")
    assert found.license(Entry(python, "a.py", None, 0, "1"), "").sha is not None


def test_texts_of_one_folder_hold_together(tmp_path: Path) -> None:
    files = {
        "LICENSE-MIT": MIT,
        "LICENSE-ISC": ISC,
        "COPYRIGHT": "Copyright 2020 Ada\n",
        "half/LICENSE": MIT,
        "half/LICENSE.extra": ODD,
    }
    found = trees(tmp_path, entries(files))
    assert ask(found, "a.py") == ("ISC AND MIT", "file")
    assert ask(found, "half/a.py") == (None, "unknown")


def test_what_is_no_licence_by_its_name_is_carried_and_states_nothing(tmp_path: Path) -> None:
    found = trees(tmp_path, entries({"LICENSE": MIT, "AUTHORS": "Ada\n", "README.md": GPL3}))
    assert ask(found, "a.py") == ("MIT", "file")
    assert len(found.notices["frob"]) == 2


def test_reuse_folders_hold_for_files_that_do_not_say_which(tmp_path: Path) -> None:
    found = trees(tmp_path, entries({"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0-only.txt": GPL3}))
    assert ask(found, "a.py") == ("GPL-3.0-only AND MIT", "file")
    assert ask(found, "a.py", "# SPDX-License-Identifier: MIT\n") == ("MIT", "header")
    both = trees(tmp_path / "both", entries({"LICENSES/GPL-3.0-only.txt": GPL3, "COPYING": MIT}))
    assert ask(both, "a.py") == ("MIT", "file")


def test_metadata_folders_hold_for_the_package_beside_them(tmp_path: Path) -> None:
    files = {"frob-1.dist-info/licenses/LICENSE": MIT, "frob-1.dist-info/licenses/src/frob/_vendor/x/COPYING": GPL3}
    found = trees(tmp_path, entries(files))
    assert ask(found, "frob/a.py") == ("MIT", "file")
    assert ask(found, "frob/_vendor/x/deep/a.py") == ("GPL-3.0-only", "file")
    several = trees(tmp_path / "b", entries({"lib/a-1.dist-info/LICENSE": MIT, "lib/b-1.dist-info/COPYING": GPL3}))
    assert ask(several, "lib/a/x.py") == (None, "unknown")


def repository(root: Path) -> GitSource:
    """A folder, committed."""
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    return GitSource("git:", root)


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_below_a_licence_that_git_cannot_give_nothing_is_known(tmp_path: Path, tree, content: bytes | None) -> None:
    root = tree(tmp_path / "frob", {"LICENSE": MIT, "third/COPYING": GPL3, "third/x.py": "", "a.py": ""})
    source = repository(root)
    sha = next(entry.stamp for entry in source.entries if entry.path == "third/COPYING")
    broken = root / ".git" / "objects" / sha[:2] / sha[2:]
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    found = trees(tmp_path / "trees", GitSource("git:", root).license_files())
    assert ask(found, "third/x.py") == (None, "unknown")
    assert ask(found, "third/x.py", "# SPDX-License-Identifier: ISC\n") == ("ISC", "header")
    assert ask(found, "a.py") == ("MIT", "file")


@pytest.mark.parametrize("name", ["LICENSE", "COPYING", "COPYRIGHT"])
def test_below_a_licence_that_is_no_regular_file_nothing_is_known(tmp_path: Path, tree, name: str) -> None:
    root = tree(tmp_path / "frob", {"LICENSE": MIT, "third/x.py": "", "a.py": ""})
    os.mkfifo(root / "third" / name)
    found = trees(tmp_path / "trees", FolderSource("frob", root).license_files())
    assert ask(found, "third/deep/x.py") == (None, "unknown")
    assert ask(found, "a.py") == ("MIT", "file")


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_a_licence_that_is_a_link_counts_as_the_file_inside_it_points_to(tmp_path: Path, tree, kind: str) -> None:
    root = tree(tmp_path / "frob", {"LICENSE": MIT, "texts/gpl.txt": GPL3, "a.py": ""})
    (tmp_path / "outside").write_text(ISC)
    links = {
        "up": "../LICENSE",
        "gpl": "../texts/gpl.txt",
        "twice": "../gpl/COPYING",
        "out": "../../outside",
        "absolute": str(root / "LICENSE"),
        "gone": "nowhere",
        "folder": "../texts",
        "round": "COPYING",
        "through": "way/../mit.txt",
    }
    for name, target in links.items():
        (root / name).mkdir()
        (root / name / "COPYING").symlink_to(target)
    tree(root, {"through/mit.txt": MIT})
    (root / "through" / "way").symlink_to("../texts")
    source: ListedSource = FolderSource("frob", root) if kind == "folder" else repository(root)
    found = trees(tmp_path / "trees", source.license_files())
    assert {name: ask(found, f"{name}/a.py")[0] for name in links} == {
        "up": "MIT",
        "gpl": "GPL-3.0-only",
        "twice": "GPL-3.0-only",
    } | dict.fromkeys(["out", "absolute", "gone", "folder", "round", "through"])
    assert ask(found, "a.py") == ("MIT", "file")


class Vanishing:
    def read(self, limit: int = -1) -> bytes:
        raise FileNotFoundError("gone")


@pytest.mark.parametrize(
    "data",
    [MIT.encode(), b"\xef\xbb\xbf" + MIT.encode(), MIT.encode("utf-16"), MIT.encode("utf-16-be").join([b"\xfe\xff", b""]),
     MIT.replace("Ada", "Ad\xe9").encode("latin-1"), MIT.replace("\n", "\r\n").encode(), MIT.encode() + b"\x00\x00"],
)  # fmt: skip
def test_encodings(tmp_path: Path, data: bytes) -> None:
    assert ask(trees(tmp_path, entries({"LICENSE": data})), "a.py") == ("MIT", "file")


def test_files_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    good, bad = entries({"LICENSE": MIT}), Entry(Origin("frob"), "deep/LICENSE", Vanishing(), 9, "1")
    odd = entries({"zero/LICENSE": b"", "noise/LICENSE": bytes(range(256)) * 50, "line\nend/LICENSE": MIT})
    link = Entry(Origin("frob"), "link/LICENSE", None, None, "1", Rejection("symlink"))
    found = trees(tmp_path, [*good, bad, *odd, link])
    assert ask(found, "a.py") == ("MIT", "file")
    assert ask(found, "line\nend/a.py") == ("MIT", "file")
    for folder in ("deep", "zero", "noise", "link"):
        assert ask(found, f"{folder}/a.py") == (None, "unknown")


def test_collected_twice_it_is_the_same(tmp_path: Path) -> None:
    files = entries({"LICENSE": MIT, "b/COPYING": GPL3, "NOTICE": "frob, by Ada"})
    first, second = trees(tmp_path / "1", files), trees(tmp_path / "2", reversed(files))
    assert (first.folder / "trees.json").read_bytes() == (second.folder / "trees.json").read_bytes()
    again = pickle.loads(pickle.dumps(first))
    assert again is first
    assert len(pickle.dumps(first)) < 500


def test_notice(tmp_path: Path) -> None:
    collected, folder = tmp_path / "collected", tmp_path / "corpus"
    folder.mkdir()
    found = trees(collected, entries({"LICENSE": MIT, "NOTICE": "frob\r\nby Ada\n", "gpl/COPYING": GPL3}))
    sha = found.license(Entry(Origin("frob"), "a.py", None, 0, "1"), "").sha
    kept = {"repo": "frob", "license": "MIT", "license_sha": sha, "copyright": ["Copyright (c) 2020 Ada Example"]}
    other = {"repo": "zap", "license": None, "license_sha": None, "copyright": None}
    write_notice(folder, {"frob": "1.0"}, iter([kept, kept, other]), collected)
    text = (folder / "NOTICE.txt").read_text()
    assert "frob 1.0\n  licence: MIT (2 files)\n" in text
    assert "zap\n  licence: unknown (1 file)\n" in text
    assert "  Copyright (c) 2020 Ada Example\n" in text
    texts = {file.read_bytes() for file in (folder / "licenses").glob("*.txt")}
    assert texts == {MIT.encode(), b"frob\r\nby Ada\n"}
    assert all(f"licenses/{file.name}" in text for file in (folder / "licenses").glob("*.txt"))


def installed_pip(tmp_path: Path) -> tuple[Path, str]:
    """A pip that vendors chardet, which is under the LGPL by its headers only; else a tree like it."""
    roots = [Path(sysconfig.get_path("purelib")), Path("/usr/lib/python3/dist-packages")]
    for root in roots:
        if (root / "pip/_vendor/chardet/universaldetector.py").is_file():
            return root, "pip"
    for path, text in {
        "pip/__init__.py": "x = 1\n",
        "pip/_vendor/chardet/universaldetector.py": LESSER,
        "pip/LICENSE.txt": MIT,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path, "pip"


def test_the_chardet_that_pip_vendors_is_dropped(tmp_path: Path) -> None:
    root, name = installed_pip(tmp_path)
    pip = Origin("pypi/pip", license="MIT", license_method="metadata")
    listed = [
        Entry(pip, file.relative_to(root).as_posix(), FileBlob(file), 1, "1")
        for file in sorted((root / name).rglob("*"))
        if file.is_file()
    ]
    found = trees(tmp_path / "collected", [entry for entry in listed if is_license_name(entry.path)])
    reasons: dict[str, str | None] = {}
    for entry in listed:
        if entry.path.endswith(".py") and entry.blob is not None:
            answer: License = found.license(entry, entry.blob.read().decode("utf-8", "replace"))
            rejection = license_rejection(answer, LicensePolicy())
            reasons[entry.path] = rejection and rejection.detail
    assert reasons["pip/__init__.py"] is None
    assert reasons["pip/_vendor/chardet/universaldetector.py"] == "LGPL-2.1-or-later"
    headed = [
        path for path in reasons if "/chardet/" in path and "GNU Lesser" in (root / path).read_text("utf-8", "replace")[:4096]
    ]
    assert headed and all(reasons[path] for path in headed)
