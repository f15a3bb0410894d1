"""The order of the files of a repository."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codelm.corpus.order import FAMILY, Resolver, imports_of, repository_order

HERE = Path(__file__).parent
IMPORTS: list[dict[str, Any]] = yaml.safe_load((HERE / "imports.yaml").read_text())
REPOSITORIES: list[dict[str, Any]] = yaml.safe_load((HERE / "repositories.yaml").read_text())


def in_order(files: dict[str, str], language: str) -> list[str]:
    paths = list(files)
    imports = [imports_of(text, language) for text in files.values()]
    position = repository_order(paths, imports, [language] * len(paths))
    assert sorted(position) == list(range(len(paths)))
    return sorted(paths, key=lambda path: position[paths.index(path)])


@pytest.mark.parametrize("case", IMPORTS, ids=[case["language"] for case in IMPORTS])
def test_imports(case: dict[str, Any]) -> None:
    assert imports_of(case["text"], case["language"]) == case["imports"]


@pytest.mark.parametrize("case", REPOSITORIES, ids=[case["name"] for case in REPOSITORIES])
def test_repositories(case: dict[str, Any]) -> None:
    files = case["files"]
    assert in_order(files, case["language"]) == case["order"]
    names = list(files)
    random.Random(0).shuffle(names)
    assert in_order({name: files[name] for name in names}, case["language"]) == case["order"]


def test_at_most_64() -> None:
    assert len(imports_of("".join(f"import m{i}\n" for i in range(200)), "Python")) == 64


@given(st.text(), st.sampled_from(sorted(FAMILY)))
def test_any_text(text: str, language: str) -> None:
    for more in (text, "import " + text, "from " + text, f'#include "{text}', f"use crate::{text}", f"require('{text}"):
        found = imports_of(more, language)
        assert repository_order(["a/b", "c"], [found, found], [language, language]) in ([0, 1], [1, 0])


@given(st.lists(st.tuples(st.text(max_size=9), st.lists(st.text(max_size=9))), max_size=9), st.sampled_from(sorted(FAMILY)))
def test_any_names(files: list[tuple[str, list[str]]], language: str) -> None:
    position = repository_order([path for path, _ in files], [found for _, found in files], [language] * len(files))
    assert sorted(position) == list(range(len(files)))


@given(
    st.integers(1, 25).flatmap(
        lambda count: st.tuples(
            st.permutations([f"{'d/' * (i % 3)}m{i}.py" for i in range(count)]),
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=60),
        )
    )
)
def test_without_cycles_what_is_imported_comes_first(case: tuple[list[str], list[tuple[int, int]]]) -> None:
    paths, edges = case
    edges = [(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]]  # a later one imports an earlier one
    imports: list[list[str]] = [[] for _ in paths]
    for importer, imported in edges:
        up = "../" * paths[importer].count("/")
        imports[importer].append(f"./{up}{paths[imported].removesuffix('.py')}")
    position = repository_order(paths, imports, ["Python"] * len(paths))
    assert sorted(position) == list(range(len(paths)))
    for importer, imported in edges:
        assert position[imported] < position[importer]


def test_a_chain_as_long_as_a_large_repository() -> None:
    count = 30_000
    files = [f"m{i:05d}.py" for i in range(count)]
    position = repository_order(files, [[f"./m{i + 1:05d}"] for i in range(count)], ["Python"] * count)
    assert position == list(range(count - 1, -1, -1))


@pytest.mark.parametrize("case", REPOSITORIES, ids=[case["name"] for case in REPOSITORIES])
def test_any_import_is_resolved_as_those_that_are_known_beforehand(case: dict[str, Any]) -> None:
    paths = sorted(case["files"])
    imports = [imports_of(case["files"][path], case["language"]) for path in paths]
    known, open_ = (Resolver(paths, given, [case["language"]] * len(paths)) for given in (imports, None))
    for file, targets in enumerate(imports):
        # Go's folders have numbers of their own
        assert [known.paths[n] if n < len(paths) else sorted(known.dependencies(n)) for n in known.imported(file, targets)] == [
            open_.paths[n] if n < len(paths) else sorted(open_.dependencies(n)) for n in open_.imported(file, targets)
        ]
