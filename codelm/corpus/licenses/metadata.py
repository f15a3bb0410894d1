"""The licence that a package's metadata state."""

from collections.abc import Mapping
from importlib.metadata import PackageMetadata
from typing import Any


def python_license(metadata: PackageMetadata | Mapping[str, Any]) -> str | None:
    """The SPDX expression of a Python distribution."""
    raise NotImplementedError


def npm_license(package: dict[str, Any]) -> str | None:
    """The SPDX expression of a package.json."""
    raise NotImplementedError
