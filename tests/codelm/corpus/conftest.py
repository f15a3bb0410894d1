"""Small source trees."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codelm.config.corpus import CorpusConfig
from codelm.corpus.build import build

Tree = Callable[[Path, dict[str, str | bytes]], Path]


@pytest.fixture(scope="session")
def code() -> Callable[[str], str]:
    """Name → six lines of Python that no other name gives."""
    return lambda name: "".join(f"def {name}_{number}(x):\n    return x + {number}\n" for number in range(3))


@pytest.fixture(scope="session")
def tree() -> Tree:
    """Writes files, given by their paths below a folder, and returns the folder."""

    def write(root: Path, files: dict[str, str | bytes]) -> Path:
        for path, content in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.fixture(scope="session")
def stdlib_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the standard library, built once."""
    folder = tmp_path_factory.mktemp("stdlib") / "corpus"
    build(folder, CorpusConfig())
    return folder
