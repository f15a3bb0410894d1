"""Commands as a user starts them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WITH_DEFAULT = """
import sys
from pathlib import Path
from codelm.default_model import locate
locate.BUNDLE = Path(sys.argv.pop(1))
from cli.main import main
main()
"""


@pytest.fixture(scope="session")
def with_default() -> Callable[[Path], list[str]]:
    """The program `codelm` with another bundle as its default model."""
    return lambda bundle: [sys.executable, "-c", WITH_DEFAULT, str(bundle)]
