"""What packages state of their licence."""

from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from codelm.corpus.licenses.debian import debian_license
from codelm.corpus.licenses.metadata import npm_license, python_license

OSI = "License :: OSI Approved :: "
MIT_TEXT = "Permission is hereby granted, free of charge, to any person\n… including without limitation the rights to use, copy"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([("License-Expression", "mit OR apache-2.0")], "MIT OR Apache-2.0"),
        ([("License-Expression", "not an expression")], None),
        ([("License-Expression", "MIT"), ("Classifier", OSI + "BSD License")], "MIT"),
        ([("Classifier", OSI + "MIT License")], "MIT"),
        ([("Classifier", "License :: OSI Approved"), ("License", "MIT")], "MIT"),
        ([("Classifier", "Programming Language :: Python"), ("License", "Apache License, Version 2.0")], "Apache-2.0"),
        (
            [
                ("Classifier", "License :: Public Domain"),
                ("Classifier", OSI + "Python Software Foundation License"),
                ("Classifier", OSI + "BSD License"),
                ("Classifier", OSI + "GNU General Public License (GPL)"),
            ],
            "LicenseRef-scancode-public-domain AND PSF-2.0 AND BSD-3-Clause AND GPL-1.0-or-later",
        ),
        ([("Classifier", OSI + "BSD License"), ("License", "BSD-2-Clause")], "BSD-2-Clause"),
        ([("Classifier", OSI + "MIT License"), ("License", "GPLv3")], "MIT AND GPL-3.0-only"),
        ([("Classifier", OSI + "Frob License")], None),
        ([("License", "GPLv3+")], "GPL-3.0-or-later"),
        ([("License", "BSD or Apache License, Version 2.0")], "BSD-3-Clause OR Apache-2.0"),
        ([("License", "MIT/X11")], "MIT"),
        ([("License", "Do as you please")], None),
        ([("License", "UNKNOWN")], None),
        ([("License", "MIT License\n\n" + MIT_TEXT)], "MIT"),
        ([("License", "Some terms of our own\n" * 10)], None),
        ([("Classifier", "License :: Other/Proprietary License")], "LicenseRef-proprietary"),
    ],
)
def test_python(fields: list[tuple[str, str]], expected: str | None) -> None:
    message = Message()
    for name, value in fields:
        message[name] = value
    assert python_license(message) == expected  # type: ignore[arg-type]


def test_python_metadata_as_a_mapping() -> None:
    assert python_license({"Classifier": [OSI + "MIT License"], "License": "MIT"}) == "MIT"


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ({}, None),
        ({"license": "MIT"}, "MIT"),
        ({"license": "(mit or gpl-3.0)"}, "MIT OR GPL-3.0-only"),
        ({"license": {"type": "BSD", "url": "…"}}, "BSD-3-Clause"),
        ({"licenses": [{"type": "MIT"}, {"type": "Apache-2.0"}]}, "MIT OR Apache-2.0"),
        ({"licenses": [{"type": "MIT"}, "???"]}, None),
        ({"license": "SEE LICENSE IN LICENSE.md"}, None),
        ({"license": "UNLICENSED"}, "LicenseRef-proprietary"),
        ({"license": "LicenseRef-frob"}, "LicenseRef-frob"),
        ({"license": 7}, None),
        ({"license": [None]}, None),
    ],
)
def test_npm(package: dict[str, Any], expected: str | None) -> None:
    assert npm_license(package) == expected


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: frob

Files: *
Copyright: 2020 Ada
License: Expat

Files: src/frob/_vendor/chardet/*
Copyright: 2001 Netscape
License: LGPL-2.1+

Files: src/frob/_vendor/*.c docs/?.txt
Copyright: 2010 B
License: GPL-2+ or Artistic, and BSD-3-clause

Files: src/frob/odd.py
Copyright: 2010 C
License: frobware

Files: src/frob/with.py
Copyright: 2010 C
License: GPL-2+ with Autoconf exception

License: frobware
 Permission is hereby granted, in a way that nobody has seen before.
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("frob/a.py", "MIT"),
        ("src/frob/_vendor/chardet/deep/x.py", "LGPL-2.1-or-later"),
        ("frob/_vendor/chardet/x.py", "LGPL-2.1-or-later"),
        ("/usr/lib/python3/dist-packages/frob/_vendor/chardet/x.py", "LGPL-2.1-or-later"),
        ("frob/_vendor/x.c", "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND BSD-3-Clause"),
        ("docs/1.txt", "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND BSD-3-Clause"),
        ("docs/12.txt", "MIT"),
        ("src/frob/odd.py", "LicenseRef-debian-frobware"),
        ("src/frob/with.py", "GPL-2.0-or-later WITH Autoconf-exception-2.0"),
    ],
)
def test_debian(tmp_path: Path, path: str, expected: str) -> None:
    file = tmp_path / "copyright"
    file.write_text(COPYRIGHT)
    assert debian_license(file, path) == expected


@pytest.mark.parametrize(
    "content", [b"", b"It was packaged by Ada.\nLicense: GPL-2\n", b"Format: \xff\xfe\x00", COPYRIGHT[:80].encode()]
)
def test_debian_files_that_say_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "copyright"
    file.write_bytes(content)
    assert debian_license(file, "frob/a.py") is None
    assert debian_license(tmp_path / "missing", "frob/a.py") is None
