"""The split by package."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.corpus.split import TRAIN, VALID, packages, split, units

PART = st.sampled_from(["a", "b", "c", "src", "x.py", "y.py", "y.c"])
PATHS = st.lists(PART, min_size=1, max_size=4).map("/".join)
SIZES = st.dictionaries(st.sampled_from(["one", "two"]), st.dictionaries(PATHS, st.integers(0, 5000), min_size=1), min_size=1)


def test_a_package_is_a_folder_or_the_files_of_one_stem() -> None:
    sizes = dict.fromkeys(["abc.py", "abc.pyi", "abc/x.py", "json/a.py", "json/b/c.py", "re.py"], 10)
    assert packages(sizes, dominant=0.95) == {
        "abc.py": "abc",
        "abc.pyi": "abc",
        "abc/x.py": "abc",
        "json/a.py": "json",
        "json/b/c.py": "json",
        "re.py": "re",
    }


def test_a_single_package_is_taken_apart_until_there_are_two() -> None:
    sizes = {"src/pkg/a.py": 10, "src/pkg/sub/b.py": 10, "src/pkg/sub/c.py": 10}
    assert set(packages(sizes, dominant=0.95).values()) == {"src/pkg/a", "src/pkg/sub"}
    assert set(packages({"p/a.c": 1, "p/a.h": 1}, dominant=0.95).values()) == {"p/a.c", "p/a.h"}


def test_a_setup_file_beside_the_package_does_not_make_a_validation_set() -> None:
    sizes = {"setup.py": 10, "src/pkg/a.py": 4000, "src/pkg/b.py": 5000}
    assert set(packages(sizes, dominant=0.95).values()) == {"setup", "src/pkg/a", "src/pkg/b"}


def test_a_repository_is_a_package_unless_it_is_most_of_the_corpus() -> None:
    sizes = {"big": {"a/x.py": 60, "b/x.py": 60, "c.py": 60}, "small": {"a/x.py": 50, "b/x.py": 50}}
    assert units(sizes, 0.1) == {
        "big": {"a/x.py": "a", "b/x.py": "b", "c.py": "c"},
        "small": {"a/x.py": "", "b/x.py": ""},
    }


@given(SIZES, st.floats(0.01, 0.5), st.integers(0, 9))
def test_properties(sizes: dict[str, dict[str, int]], share: float, seed: int) -> None:
    owners = units(sizes, share)
    found = {(repo, package) for repo, files in owners.items() for package in files.values()}
    if len(found) < 2:
        with pytest.raises(ValueError, match="two packages"):
            split(sizes, share, seed)
        return
    splits = split(sizes, share, seed)
    assert {repo: set(files) for repo, files in splits.items()} == {repo: set(files) for repo, files in sizes.items()}
    sides: dict[tuple[str, str], set[str]] = {}
    for repo, files in splits.items():
        for path, side in files.items():
            sides.setdefault((repo, owners[repo][path]), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert {side for both in sides.values() for side in both} == {TRAIN, VALID}
    held = [unit for unit, side in sides.items() if side == {VALID}]
    weight = sum(sizes[repo][path] for repo, files in splits.items() for path, side in files.items() if side == VALID)
    assert len(held) == 1 or weight <= 1.5 * share * sum(sum(files.values()) for files in sizes.values())
    shuffled = {repo: dict(reversed(files.items())) for repo, files in reversed(sizes.items())}
    assert split(shuffled, share, seed) == splits


def test_the_seed_chooses() -> None:
    sizes = {"r": {f"p{number}/a.py": 100 for number in range(50)}}
    held = {frozenset(path for path, side in split(sizes, 0.1, seed)["r"].items() if side == VALID) for seed in range(5)}
    assert len(held) > 1
    assert {len(paths) for paths in held} == {5}
