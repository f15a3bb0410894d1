"""Which files of a workspace the open one imports."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.workspace.imports import Imports

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "import_cases.yaml").read_text())
paths = st.lists(st.sampled_from(["a", "b", "__init__", "index", "..", ""]), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_cases(case: dict[str, Any]) -> None:
    assert Imports(case["files"]).of(case["path"], case["text"]) == set(case["imports"])


@given(
    st.lists(st.tuples(paths, st.sampled_from([".py", ".ts", ".go", ".rs", ".h", ""])), min_size=1, max_size=9),
    st.text(max_size=30),
)
def test_any_files_and_any_text(files: list[tuple[str, str]], text: str) -> None:
    names = list(dict.fromkeys(path + extension for path, extension in files))
    for more in (
        f"from .{text} import a",
        f"import {text}",
        f"import a from './{text}'",
        f"mod a; use crate::{text};",
        f'#include "{text}"',
    ):
        found = Imports(names).of(names[0], more)
        assert found <= set(names) - {names[0]}
