"""SPDX expressions, how much they ask, and whether the policy lets them stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelm.config.corpus import LicensePolicy
from codelm.corpus.licenses.expressions import MAX_CHARS, canonical, categories, category, conjunction, rank
from codelm.corpus.licenses.policy import license_rejection
from codelm.corpus.licenses.tree import License


def reason(spdx: str | None, policy: LicensePolicy | None = None) -> str | None:
    rejection = license_rejection(License(spdx, "file", 1.0, None, []), policy or LicensePolicy())
    return rejection.reason if rejection else None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("gpl-2.0+", "GPL-2.0-or-later"),
        ("AGPL-3.0", "AGPL-3.0-only"),
        ("GPL-2.0-with-classpath-exception", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("(MIT)", "MIT"),
        ("MIT AND mit", "MIT"),
        ("(MIT OR Apache-2.0) AND ISC", "(MIT OR Apache-2.0) AND ISC"),
        ("mit or (isc and zlib)", "MIT OR ISC AND Zlib"),
        ("LicenseRef-frob", "LicenseRef-frob"),
        ("NOASSERTION", None),
        ("MIT AND", None),
        ("A WITH B WITH C", None),
        ("free for all", None),
        ("()", None),
        ("", None),
        (None, None),
        ("(" * 5000, None),
    ],
)
def test_canonical(expression: str | None, expected: str | None) -> None:
    assert canonical(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("CC0-1.0", 0),
        ("MIT", 1),
        ("CC0-1.0 AND MIT", 1),
        ("MPL-2.0", 2),
        ("LGPL-2.1-or-later", 2),
        ("GPL-2.0-only", 3),
        ("LicenseRef-frob", 3),
        ("GPL-2.0-only OR MIT", 1),
        ("GPL-2.0-only AND MIT", 3),
        ("(GPL-2.0-only OR MIT) AND MPL-2.0", 2),
        ("Apache-2.0 WITH LLVM-exception", 1),
    ],
)
def test_rank(expression: str, expected: int) -> None:
    assert rank(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (None, "license_unknown"),
        ("frob it as you like", "license_unknown"),
        ("MIT", None),
        ("Unlicense", None),
        ("MPL-2.0", "license"),
        ("GPL-3.0-or-later", "license"),
        ("gpl-2.0", "license"),
        ("LGPL-2.1-only", "license"),
        ("CC-BY-NC-4.0", "license"),
        ("LicenseRef-frob", "license"),
        ("MIT OR GPL-2.0-only", None),
        ("MIT AND GPL-2.0-only", "license"),
        ("GPL-2.0-only OR AGPL-3.0-only", "license"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "license"),
        ("Apache-2.0 WITH LLVM-exception", None),
        ("(MIT OR GPL-2.0-only) AND ISC", None),
        ("(MIT AND GPL-2.0-only) OR (ISC AND Zlib)", None),
    ],
)
def test_default_policy(expression: str | None, expected: str | None) -> None:
    assert reason(expression) == expected


def test_policies_of_the_user() -> None:
    assert reason(None, LicensePolicy(unknown="keep")) is None
    assert reason("mpl-2.0", LicensePolicy(allow=["weak-copyleft"])) is None
    assert reason("MIT", LicensePolicy(allow=["weak-copyleft"])) == "license"
    assert reason("GPL-2.0-or-later", LicensePolicy(allow=["*"])) is None
    assert reason("GPL-2.0-or-later", LicensePolicy(allow=["*"], deny=["GPL-*"])) == "license"
    assert reason("LGPL-2.1-only", LicensePolicy(allow=["*"], deny=["GPL-*"])) is None
    assert reason("BSD-4-Clause", LicensePolicy(deny=["bsd-4*"])) == "license"
    classpath = LicensePolicy(allow=["permissive", "GPL-2.0-* WITH Classpath-*"])
    assert reason("GPL-2.0-only WITH Classpath-exception-2.0", classpath) is None
    assert reason("GPL-2.0-only", classpath) == "license"
    rejection = license_rejection(License("GPL-2.0-only AND MIT", "file", 1.0, None, []), LicensePolicy())
    assert rejection is not None and rejection.detail == "GPL-2.0-only AND MIT"


@given(st.text(alphabet="()MITANDORWITH .-+0gpl\n", max_size=60) | st.text(max_size=60))
@settings(max_examples=300)
def test_any_expression_is_canonical_or_unknown(expression: str) -> None:
    once = canonical(expression)
    assert once is None or canonical(once) == once
    assert (reason(expression) == "license_unknown") == (once is None)


def test_conjunction() -> None:
    assert conjunction([]) is None
    assert conjunction(["MIT OR ISC", "Zlib", "MIT OR ISC"]) == "(MIT OR ISC) AND Zlib"
    assert canonical("MIT AND " * (MAX_CHARS // 8) + "ISC") is None


def test_categories() -> None:
    assert len(categories()) >= 300
    assert category("GPL-3.0-or-later") == category("gpl-3.0+") == "copyleft"
    assert category("LicenseRef-frob") is None


def test_categories_agree_with_scancode() -> None:
    models = pytest.importorskip("licensedcode.models")
    theirs = {
        "Permissive": "permissive",
        "Public Domain": "public-domain",
        "Copyleft": "copyleft",
        "Copyleft Limited": "weak-copyleft",
    }
    known = {one.spdx_license_key.lower(): theirs.get(one.category, "proprietary") for one in models.load_licenses().values()}
    # differ on purpose: no conditions at all, as strong as the GPL, as weak as the LGPL, says nothing
    ours = {
        "0bsd", "antlr-pd", "mit-0", "nist-pd-fallback", "cecill-2.0", "cecill-2.1", "cecill-c", "rpl-1.1", "rpl-1.5",
        "licenseref-scancode-warranty-disclaimer",
    }  # fmt: skip
    compared = 0
    for spdx, mine in categories().items():
        other = known.get(spdx) or known.get(f"{spdx}-only")
        if other and spdx not in ours:
            assert mine == other, spdx
            compared += 1
    assert compared >= 290
