"""Files that Debian packages installed."""

from pathlib import Path

import pytest

from codelm.corpus.sources.debian import DebianPackages
from codelm.corpus.sources.folder import FolderSource
from codelm.corpus.sources.python import PythonSource

DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Somebody
License: Expat

Files: delta/gnu.py
Copyright: 2020 Somebody
License: GPL-2+

License: Expat
 Permission is hereby granted, free of charge.

License: GPL-2+
 On Debian systems, see /usr/share/common-licenses/GPL-2.
"""


@pytest.fixture
def system(tmp_path: Path, tree) -> Path:
    """A small Debian: one Python package without a record, one library that says nothing exact."""
    dist = "usr/lib/python3/dist-packages"
    root = tree(
        tmp_path / "system",
        {
            f"{dist}/delta/__init__.py": "d = 1\n",
            f"{dist}/delta/gnu.py": "g = 1\n",
            f"{dist}/delta-4.egg-info/PKG-INFO": "Metadata-Version: 1.0\nName: delta\nVersion: 4\n",
            f"{dist}/helper.py": "h = 1\n",
            "usr/include/x86_64-linux-gnu/foo/foo.h": "int foo;\n",
            "usr/include/mine.h": "int mine;\n",
            "usr/share/doc/python3-delta/copyright": DEP5,
            "usr/share/doc/python3-helper/copyright": DEP5,
            "usr/share/doc/libfoo-dev/copyright": "This is foo. It may be used by friends.\n",
            "var/lib/dpkg/info/python3-delta.list": "\n".join(
                [
                    "/.",
                    "/usr",
                    f"/{dist}",
                    f"/{dist}/delta",
                    f"/{dist}/delta/__init__.py",
                    f"/{dist}/delta/gnu.py",
                    f"/{dist}/delta-4.egg-info/PKG-INFO",
                ]
            ),
            "var/lib/dpkg/info/python3-helper.list": f"/lib/python3/dist-packages/helper.py\n/{dist}x/other.py\n",
            "var/lib/dpkg/info/libfoo-dev:amd64.list": "/usr/include/x86_64-linux-gnu/foo/foo.h\n",
            "var/lib/dpkg/status": (
                "Package: python3-delta\nStatus: install ok installed\nVersion: 4-1\n\n"
                "Package: libfoo-dev\nArchitecture: amd64\nVersion: 2:1.0-3\nDescription: foo\n Package: no\n"
            ),
        },
    )
    (root / "lib").symlink_to("usr/lib")
    return root


def test_a_python_package_without_a_record(system: Path, by_place) -> None:
    source = PythonSource("python:", [system / "usr/lib/python3/dist-packages"], packages=DebianPackages(system))
    found = by_place(source.entries)
    assert {place: (entry.license, entry.license_method) for place, entry in found.items()} == {
        "pypi/delta:delta/__init__.py": ("MIT", "debian"),
        "pypi/delta:delta/gnu.py": ("GPL-2.0-or-later", "debian"),
        "debian/python3-helper:helper.py": ("MIT", "debian"),
    }
    assert found["pypi/delta:delta/gnu.py"].origin.version == "4"


def test_a_folder_with_files_of_packages(system: Path, by_place) -> None:
    source = FolderSource("include", system / "usr" / "include", packages=DebianPackages(system))
    found = by_place(source.entries)
    foo = found["debian/libfoo-dev:x86_64-linux-gnu/foo/foo.h"]
    assert (foo.license, foo.license_method, foo.origin.version) == (None, "unknown", "2:1.0-3")
    assert found["include:mine.h"].license is None
    (text,) = source.license_files()
    assert (text.origin, text.path) == (foo.origin, "copyright")
    assert b"friends" in text.blob.read()


def test_owners(system: Path) -> None:
    packages = DebianPackages(system)
    dist = packages.owners(system / "usr/lib/python3/dist-packages")
    assert dist["helper.py"] == "python3-helper", "listed below /lib, which is a link into /usr"
    assert "other.py" not in dist
    assert packages.owners(system)["usr/include/x86_64-linux-gnu/foo/foo.h"] == "libfoo-dev"
    assert packages.owners(system / ".hidden") == {}
    assert packages.owners(Path("/somewhere/else")) == {}
    assert DebianPackages(system / "usr").owners(system / "usr" / "include") == {}
