"""Licences of files: texts, headers, policy, and which of the two wins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codelm.config.corpus import CorpusConfig
from codelm.corpus.build import build, table
from codelm.corpus.licenses import copyright_lines, denied, header_license, identify
from codelm.corpus.read import read_rows

Code = Callable[[str], str]
Tree = Callable[[Path, dict[str, str | bytes]], Path]

COPYLEFT = ["AGPL-*", "GPL-*", "LGPL-*"]
MIT = (
    "MIT License\n\nCopyright (c) 2020 Ada Example\n\nPermission is hereby granted, free of charge, to any person\n"
    'to deal in the Software "as is",\nincluding without limitation the rights\nto use, copy\n'
)
GPL3 = "        GNU GENERAL PUBLIC LICENSE\n       Version 3, 29 June 2007\n\n Copyright (C) 2007 Free Software Foundation\n"
LGPL3 = "     GNU LESSER GENERAL PUBLIC LICENSE\n    Version 3, 29 June 2007\n\nincorporates the GNU General Public License\n"
MPL = "Mozilla Public License Version 2.0\n\n1.12 means either the GNU General Public License, Version 2.0, …\n"
REDISTRIBUTION = "Redistribution and use in source and binary forms, with or\nwithout modification, are permitted\n"


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        (MIT, "MIT"),
        (GPL3, "GPL-3.0-only"),
        (LGPL3, "LGPL-3.0-only"),
        (MPL, "MPL-2.0"),
        ("Apache License\n   Version 2.0, January 2004\n", "Apache-2.0"),
        (REDISTRIBUTION, "BSD-2-Clause"),
        (REDISTRIBUTION + "Neither the name of the\ncopyright holder", "BSD-3-Clause"),
        (MIT + "\n" + GPL3, "GPL-3.0-only AND MIT"),
        ("All rights reserved.", None),
    ],
)
def test_licence_texts(text: str, spdx: str | None) -> None:
    assert identify(text) == spdx


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (None, False),
        ("MIT", False),
        ("GPL-3.0-or-later", True),
        ("gpl-2.0", True),
        ("LGPL-2.1-only", True),
        ("MIT OR GPL-2.0-only", False),
        ("MIT AND GPL-2.0-only", True),
        ("GPL-2.0-only OR AGPL-3.0-only", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("(MIT OR GPL-2.0-only) AND ISC", True),
    ],
)
def test_policy(expression: str | None, expected: bool) -> None:
    assert denied(expression, COPYLEFT) is expected
    assert not denied(expression, [])


def test_a_header_is_at_the_start() -> None:
    header = "# under the GNU General Public License\n"
    assert header_license(header) == "GPL-1.0-or-later"
    assert header_license("x = 1\n" * 1000 + header) is None


def test_copyright_lines() -> None:
    text = "# Copyright (c) 2019-2021, Ada Example <a@b.c>\n# Copyright (c) 2019-2021, Ada Example <a@b.c>\n/* © 2020 B */\n"
    assert copyright_lines(text) == ["Copyright (c) 2019-2021, Ada Example <a@b.c>", "© 2020 B"]
    assert copyright_lines("the copyright holder") == []


def test_the_nearest_licence_file_counts_and_the_more_restrictive_wins(tmp_path: Path, tree: Tree, code: Code) -> None:
    source = tree(
        tmp_path / "project",
        {
            "LICENSE": MIT,
            "a.py": code("a"),
            "license.py": code("license"),
            "isc.py": "# SPDX-License-Identifier: ISC\n" + code("isc"),
            "lesser.py": "# GNU Lesser General Public License\n" + code("lesser"),
            "gpl/COPYING": GPL3,
            "gpl/deep/b.py": code("b"),
            "gpl/deep/claims_mit.py": "# SPDX-License-Identifier: MIT\n" + code("c"),
        },
    )
    corpus = tmp_path / "run" / "corpus"
    build(corpus, CorpusConfig(sources=[str(source)]))
    rows = {row["path"]: row for split in ("train", "valid") for row in read_rows(corpus, split)}
    assert {path: (row["license"], row["license_method"]) for path, row in rows.items()} == {
        "a.py": ("MIT", "file"),
        "license.py": ("MIT", "file"),
        "isc.py": ("ISC", "header"),
    }
    assert rows["a.py"]["copyright"] == ["Copyright (c) 2020 Ada Example"]
    assert (corpus / "licenses" / f"{rows['a.py']['license_sha']}.txt").read_text() == MIT
    notice = (corpus / "NOTICE.txt").read_text()
    assert "project" in notice
    assert "licence: MIT (2 files)" in notice
    assert "Ada Example" in notice
    rejected = {
        row["path"]: row["detail"]
        for row in table(corpus / "rejected", ["path", "reason", "detail"])
        if row["reason"] == "license"
    }
    assert rejected == {
        "lesser.py": "LGPL-2.0-or-later",
        "gpl/deep/b.py": "GPL-3.0-only",
        "gpl/deep/claims_mit.py": "GPL-3.0-only",
    }
    allowed = build(tmp_path / "run" / "corpus", CorpusConfig(sources=[str(source)], deny_licenses=[]))
    assert allowed.counts["files_kept"] == 6
