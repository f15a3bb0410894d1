"""Which licence a text is, by the three ways to tell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.corpus.licenses.normal import normal, normal_hash
from codelm.corpus.licenses.scancode import Scancode, scancode_version
from codelm.corpus.licenses.texts import (
    Cache,
    Identified,
    by_hash,
    decode,
    identify,
    identify_by_phrases,
    text_sha,
    without_references,
)

MIT = Path(__file__).with_name("mit.txt").read_text(encoding="utf-8")
TERMS = MIT.split("\n\n", 2)[2]
GPL3 = "        GNU GENERAL PUBLIC LICENSE\n       Version 3, 29 June 2007\n\n Copyright (C) 2007 Free Software Foundation\n"
LGPL3 = "     GNU LESSER GENERAL PUBLIC LICENSE\n    Version 3, 29 June 2007\n\nincorporates the GNU General Public License\n"
MPL = "Mozilla Public License Version 2.0\n\n1.12 means either the GNU General Public License, Version 2.0, …\n"
REDISTRIBUTION = "Redistribution and use in source and binary forms, with or\nwithout modification, are permitted\n"
CHOICE = "This software is made available under the terms of *either* of the licenses found in LICENSE.APACHE or LICENSE.BSD.\n"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_scancode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codelm.corpus.licenses.scancode.scancode_version", lambda: None)


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
        ("", None),
    ],
)
def test_phrases(text: str, spdx: str | None) -> None:
    assert identify_by_phrases(text) == spdx


@pytest.mark.parametrize(
    "text",
    [
        MIT,
        TERMS,
        MIT.upper(),
        MIT.replace("\n", "\r\n"),
        MIT.replace("MIT License", "# The MIT License (MIT)"),
        MIT.replace(
            "2020 Ada Example", "2014-2026 Many People <many@example.com>\nCopyright © 2013 Another One\nAll rights reserved."
        ),
        "\n".join(f"   * {line}" for line in MIT.splitlines()),
        " ".join(TERMS.split()),
    ],
)
def test_one_licence_in_many_dresses(text: str) -> None:
    assert by_hash(text) == Identified("MIT", 1.0, "hash")


@pytest.mark.parametrize(
    "text",
    [
        MIT + "\nNobody may use it on Sundays.\n",
        TERMS.replace("free of charge", "for a fee"),
        MIT.replace("without restriction", "with restrictions"),
        "Copyright (c) 2020 Ada. " + TERMS,
        GPL3,
        "",
        "MIT License",
        "x" * 1_000_000,
    ],
)
def test_anything_else_is_not_taken_for_it(text: str) -> None:
    assert by_hash(text) is None


def test_names_in_bsd_texts_make_no_difference() -> None:
    one = "Neither the name of Frob, Inc. nor the names of its contributors may be used"
    other = "neither the name of the University of Somewhere nor the names of its contributors may be used"
    assert normal_hash(one) == normal_hash(other)
    assert normal("Neither the name of Frob may be used") == "neither the name of frob may be used"


def test_decode() -> None:
    assert decode("ä€".encode()) == decode("\ufeffä€".encode()) == "ä€"
    assert decode("ä€".encode("utf-16")) == decode(b"\xfe\xff" + "ä€".encode("utf-16-be")) == "ä€"
    assert decode("Müller & Söhne, all of it".encode("latin-1")) == "Müller & Söhne, all of it"
    assert decode("the last one is cut: €".encode()[:-1]) == "the last one is cut: "
    assert decode(b"\xff\xfea") == ""
    assert decode(b"a\x00b") == "ab"
    for byte in range(256):
        decode(bytes([byte]) * 3)


def test_references_say_nothing_more() -> None:
    unknown = "LicenseRef-scancode-unknown-license-reference"
    assert without_references(f"MIT AND {unknown}") == "MIT"
    assert without_references(f"(MIT OR ISC) AND ({unknown} OR {unknown})") == "MIT OR ISC"
    assert without_references("GPL-2.0-only WITH Classpath-exception-2.0") == "GPL-2.0-only WITH Classpath-exception-2.0"
    assert without_references(unknown) is None
    assert without_references(None) is None


def test_without_scancode_phrases_answer(no_scancode: None, own_cache: Path) -> None:
    found = identify([MIT, GPL3, "nothing", MIT])
    assert found == {
        text_sha(MIT): Identified("MIT", 1.0, "hash"),
        text_sha(GPL3): Identified("GPL-3.0-only", 0.7, "phrases"),
        text_sha("nothing"): Identified(None, 0.0, "phrases"),
    }
    assert not own_cache.exists()  # with scancode the answer may be better


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"a": 1}', b'{"a": [1]}', b'{"a": ["MIT", "x"]}', b'{"a": [{}, {}, {}]}']
)
def test_a_broken_cache_is_none(content: bytes) -> None:
    cache = Cache()
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(content)
    assert Cache().found == {}
    cache.new = {"sha": Identified("MIT", 0.9, "scancode")}
    cache.write()
    assert Cache().found == {"sha": Identified("MIT", 0.9, "scancode")}


def test_caches_of_two_runs_are_joined() -> None:
    one, two = Cache(), Cache()
    one.new = {"1": Identified("MIT", 0.9, "scancode")}
    two.new = {"2": Identified(None, 0.0, "scancode")}
    one.write()
    two.write()
    assert sorted(Cache().found) == ["1", "2"]
    assert [file.name for file in one.path.parent.iterdir()] == [one.path.name]


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = Cache()
    cache.new = {"1": Identified("MIT", 0.9, "scancode")}
    cache.write()


def test_scancode_for_what_is_not_known_word_for_word(own_cache: Path) -> None:
    if scancode_version() is None:
        pytest.skip("scancode-toolkit-mini is not installed")
    sunday = MIT + "\nNobody may use it on Sundays.\n"
    texts = [MIT, sunday, CHOICE, MIT + "\nIt is GPL-compatible.\n", "nothing at all\n", "\ud7ff\n\x0c" * 50]
    found = [identify(texts)[text_sha(text)] for text in texts]
    assert [one.spdx for one in found] == ["MIT", "MIT", "Apache-2.0 OR BSD-3-Clause", "MIT", None, None]
    assert [one.by for one in found] == ["hash"] + ["scancode"] * 5
    assert all(one.confidence > 0.8 for one in found[:4])
    cached = json.loads(next((own_cache / "codelm").iterdir()).read_text())
    assert len(cached) == 5
    code = "import sys; from codelm.corpus.licenses.texts import identify; identify(sys.argv[1:]); print(*sys.modules)"
    again = subprocess.run([sys.executable, "-c", code, sunday], capture_output=True, text=True, check=True)
    assert "licensedcode" not in again.stdout


def test_a_scancode_that_dies_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codelm.corpus.licenses.scancode.scancode_version", lambda: "1")
    monkeypatch.setattr("codelm.corpus.licenses.scancode.sys.executable", "/bin/false")
    with Scancode() as dead:
        assert [dead.detect("x") for _ in range(5)] == [None] * 5
        assert dead.failures == 3
        assert dead.process is None
    monkeypatch.setattr("codelm.corpus.licenses.scancode.sys.executable", "/no/such/program")
    with Scancode() as missing:
        assert missing.detect("x") is None
