"""What the first lines of a file state."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.corpus import LicensePolicy
from codelm.corpus.licenses.headers import copyright_lines, header_license
from codelm.corpus.licenses.policy import license_rejection
from codelm.corpus.licenses.tree import License

GOLDEN: dict[str, list[dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("headers.yaml").read_text(encoding="utf-8"))


def named(rows: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(row, id=f"{number}-{row['spdx']}") for number, row in enumerate(rows)]


@pytest.mark.parametrize("row", named(GOLDEN["copyleft"] + GOLDEN["others"]))
def test_golden_headers(row: dict[str, Any]) -> None:
    found = header_license(row["head"])
    assert (found.spdx if found else None) == row["spdx"]


def test_every_copyleft_header_is_dropped() -> None:
    rows = GOLDEN["copyleft"]
    assert sum("GPL" in row["spdx"] for row in rows) >= 50
    for row in rows:
        found = header_license(row["head"])
        assert found is not None
        rejection = license_rejection(License(found.spdx, "header", found.confidence, None, []), LicensePolicy())
        assert rejection is not None and rejection.reason == "license" and rejection.detail == row["spdx"]


COMMENTS = ["# {}", "// {}", " * {}", "-- {}", "% {}", ";; {}", "dnl {}", "REM {}", "! {}", "C     {}", "<!-- {} -->", "| {} |"]
SENTENCE = (
    "This program is free software; you can redistribute it and/or modify it under the terms of the GNU {kind}General "
    "Public {license} as published by the Free Software Foundation; either version 2.1 of the License, or (at your option) any "
    "later version."
)


@given(
    comment=st.sampled_from(COMMENTS),
    kind=st.sampled_from(["Lesser ", "Library "]),
    license=st.sampled_from(["License", "Licence"]),
    breaks=st.lists(st.integers(1, 8), min_size=50, max_size=50),
    newline=st.sampled_from(["\n", "\r\n"]),
    upper=st.booleans(),
)
@settings(max_examples=150)
def test_wrapped_anywhere_in_any_comment(
    comment: str, kind: str, license: str, breaks: list[int], newline: str, upper: bool
) -> None:
    words = SENTENCE.format(kind=kind, license=license).split()
    lines = []
    for count in breaks:
        lines.append(comment.format(" ".join(words[:count])))
        words = words[count:]
    head = newline.join(lines)
    found = header_license(head.upper() if upper else head)
    assert found is not None and found.spdx == "LGPL-2.1-or-later"


@given(st.text(max_size=300) | st.from_regex(r"(SPDX-License-Identifier:|GNU|GPL|[ ()\n*/]|MIT|OR|AND|WITH|v?2\.0){1,30}"))
@settings(max_examples=200)
def test_any_text_has_a_header_or_none(text: str) -> None:
    found = header_license(text)
    assert found is None or (found.spdx and 0 < found.confidence <= 1)


def test_a_header_is_at_the_start() -> None:
    header = "# under the GNU General Public License\n"
    found = header_license(header)
    assert found is not None and found.spdx == "GPL-1.0-or-later"
    assert header_license("x = 1\n" * 1000 + header) is None


def test_copyright_lines() -> None:
    text = "# Copyright (c) 2019-2021, Ada Example <a@b.c>\n# Copyright (c) 2019-2021, Ada Example <a@b.c>\n/* © 2020 B */\n"
    assert copyright_lines(text) == ["Copyright (c) 2019-2021, Ada Example <a@b.c>", "© 2020 B"]
    assert copyright_lines("the copyright holder") == []
    assert all(len(line) <= 300 for line in copyright_lines("# Copyright 2020 " + "x" * 4000))
