"""Which paths are not first-party code: the table in paths.yaml, and what holds for all paths."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codelm.corpus.paths import data, is_never_entered, is_pruned, path_rejection, rules

CASES = yaml.safe_load((Path(__file__).parent / "paths.yaml").read_text(encoding="utf-8"))
ALL = list(data()["rejected"])


@pytest.mark.parametrize(("reason", "path"), [(reason, path) for reason, paths in CASES.items() for path in paths])
def test_what_a_path_falls_under(reason: str, path: str) -> None:
    found = path_rejection(path, ALL)
    assert (found.reason if found else "kept") == reason


@pytest.mark.parametrize("reason", ALL)
def test_only_the_reasons_that_count_count(reason: str) -> None:
    for path in CASES[reason]:
        without = path_rejection(path, [other for other in ALL if other != reason])
        assert without is None or without.reason != reason
        assert path_rejection(path, []) is None


def test_every_rule_is_found_by_the_table() -> None:
    found = {rejection for paths in CASES.values() for path in paths if (rejection := path_rejection(path, ALL))}
    assert len(found) >= 0.6 * len(rules())
    assert all(rejection.detail for rejection in found)


@given(st.text(max_size=80))
def test_any_name_is_taken(path: str) -> None:
    found = path_rejection(path, ALL)
    assert found is None or found in {rule.rejection for rule in rules()}
    assert path_rejection(path, ALL) == found


def test_folders_of_installed_packages_and_caches() -> None:
    assert is_pruned("node_modules")
    assert is_pruned("site-packages")
    assert not is_pruned("packages")
    assert is_never_entered(".git")
    assert is_never_entered("__pycache__")
    assert not is_never_entered("src")
