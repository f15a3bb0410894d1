"""The licence that a Debian package's copyright file states for one of its files."""

from pathlib import Path


def debian_license(copyright_file: Path, path: str) -> str | None:
    """The SPDX expression of a file. path: in the source package."""
    raise NotImplementedError
