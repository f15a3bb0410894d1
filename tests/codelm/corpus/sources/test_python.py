"""Installed Python packages."""

from pathlib import Path

import pytest

from codelm.corpus.sources.base import Rejection
from codelm.corpus.sources.debian import DebianPackages
from codelm.corpus.sources.python import PythonSource, python_folders, running_python
from codelm.errors import UserError

NO_DEBIAN = DebianPackages(Path("/nonexistent"))


def metadata(name: str, *lines: str) -> str:
    """A METADATA file."""
    return "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2", *lines, "", "Text."])


@pytest.fixture
def site(tmp_path: Path, tree) -> Path:
    """A site-packages as pip leaves it, with most of what is odd in real ones."""
    return tree(
        tmp_path / "venv" / "lib" / "python3.11" / "site-packages",
        {
            "alpha/__init__.py": "a = 1\n",
            "alpha/_vendor/beta/__init__.py": "b = 2\n",
            "alpha/_vendor/beta/LICENSE": "vendored",
            "alpha/__pycache__/__init__.cpython-311.pyc": "",
            "alpha/generated.py": "not recorded\n",
            "alpha_tool.py": "tool = 1\n",
            "Alpha.Package-1.2.dist-info/METADATA": metadata(
                "Alpha.Package", "License-Expression: MIT", "License-File: LICENSE", "License-File: doc/TERMS"
            ),
            "Alpha.Package-1.2.dist-info/LICENSE": "MIT text",
            "Alpha.Package-1.2.dist-info/doc/TERMS": "terms",
            "Alpha.Package-1.2.dist-info/RECORD": "\n".join(
                [
                    "alpha/__init__.py,sha256=x,6",
                    "alpha/_vendor/beta/__init__.py,,",
                    "alpha/_vendor/beta/LICENSE,,",
                    "alpha/__pycache__/__init__.cpython-311.pyc,,",
                    "alpha/gone.py,,",
                    "alpha_tool.py,,",
                    "../../../bin/alpha,,",
                    "Alpha.Package-1.2.dist-info/METADATA,,",
                ]
            ),
            "gamma/__init__.py": "g = 3\n",
            "gamma/sub/x.py": "x = 3\n",
            "gamma-1.2.dist-info/METADATA": metadata("gamma", "License-Expression: Apache-2.0"),
            "gamma-1.2.dist-info/RECORD": "gamma/__init__.py,,\ngamma/sub/x.py,,\n",
            "gamma-1.2.dist-info/licenses/LICENSE": "apache",
            "gamma-1.2.dist-info/licenses/src/gamma/sub/COPYING": "of a part",
            "gamma-1.2.dist-info/licenses/elsewhere/COPYING": "of what is not installed",
            "old.py": "old = 1\n",
            "old-1.2.egg-info": "Metadata-Version: 1.0\nName: old\nVersion: 1.2\n",
            "broken-1.2.dist-info/METADATA": b"Name: br\xff\nVersion: 1\n",
            "broken-1.2.dist-info/RECORD": b"a\0b,,\n\xff,x,notanumber\n",
            "bare-3.dist-info/INSTALLER": "pip",
            "nobodys.py": "n = 1\n",
        },
    )


def test_each_package_is_an_origin(site: Path, by_place) -> None:
    (site / "link.py").symlink_to("old.py")
    source = PythonSource("python:", [site], packages=NO_DEBIAN)
    found = by_place(source.entries)
    assert {place: entry.rejection for place, entry in found.items()} == {
        "pypi/alpha-package:alpha/__init__.py": None,
        "pypi/alpha-package:alpha/_vendor/beta/__init__.py": None,
        "pypi/alpha-package:alpha/_vendor/beta/LICENSE": None,
        "pypi/alpha-package:alpha_tool.py": None,
        "pypi/gamma:gamma/__init__.py": None,
        "pypi/gamma:gamma/sub/x.py": None,
        "site-packages:alpha/generated.py": None,
        "site-packages:nobodys.py": None,
        "site-packages:old.py": None,
        "site-packages:link.py": Rejection("symlink", "not followed"),
    }
    alpha = found["pypi/alpha-package:alpha/__init__.py"]
    assert alpha.blob.read() == b"a = 1\n"
    assert (alpha.origin.version, alpha.origin.license, alpha.origin.license_method) == ("1.2", "MIT", "metadata")
    assert found["site-packages:nobodys.py"].origin.license is None
    assert [origin.repo for _, origin in source.distributions] == [
        "pypi/alpha-package",
        "pypi/bare",
        "pypi/br-",
        "pypi/gamma",
        "pypi/old",
    ]


def test_licence_texts_beside_the_metadata_hold_for_the_package(site: Path) -> None:
    source = PythonSource("python:", [site], packages=NO_DEBIAN)
    texts = {(entry.origin.repo, entry.path): entry.blob.read().decode() for entry in source.license_files()}
    assert texts == {
        ("pypi/alpha-package", "LICENSE"): "MIT text",
        ("pypi/alpha-package", "doc/TERMS"): "terms",
        ("pypi/alpha-package", "alpha/_vendor/beta/LICENSE"): "vendored",
        ("pypi/gamma", "LICENSE"): "apache",
        ("pypi/gamma", "gamma/sub/COPYING"): "of a part",
        ("pypi/gamma", "elsewhere/COPYING"): "of what is not installed",
    }


def test_packages_of_two_folders(tmp_path: Path, site: Path, tree) -> None:
    other = tree(
        tmp_path / "other" / "site-packages",
        {
            "gamma/__init__.py": "newer\n",
            "gamma-1.3.dist-info/METADATA": metadata("gamma"),
            "gamma-1.3.dist-info/RECORD": "gamma/__init__.py,,\n",
        },
    )
    source = PythonSource("python:", [site, other, site], packages=NO_DEBIAN)
    gammas = {entry.origin.repo: entry.blob.read() for entry in source.entries if entry.path == "gamma/__init__.py"}
    assert gammas == {"pypi/gamma": b"g = 3\n", "pypi/gamma-2": b"newer\n"}


def test_a_virtual_environment_is_as_good_as_its_site_packages(site: Path) -> None:
    environment = site.parents[2]
    assert python_folders(environment) == [environment]
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert python_folders(environment) == [site]
    assert python_folders(site) == [site]


def test_a_folder_without_packages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Python packages"):
        PythonSource("python:x", [tmp_path], packages=NO_DEBIAN)
    with pytest.raises(UserError, match="no such folder"):
        PythonSource("python:x", [tmp_path / "x"], packages=NO_DEBIAN)


def test_the_running_python() -> None:
    source = PythonSource("python:", running_python())
    pytest_file = next(e for e in source.entries if e.origin.repo == "pypi/pytest" and e.path == "_pytest/python.py")
    assert b"def pytest_pycollect_makeitem" in pytest_file.blob.read()
    assert pytest_file.origin.version == pytest.__version__
    assert pytest_file.origin.license == "MIT"
    assert any(e.origin.repo == "pypi/pytest" and e.path == "LICENSE" for e in source.license_files())
