"""Which language a file is in: the table in languages.yaml, and that the two data files fit together."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codelm.corpus.languages import ambiguous, is_open, language_map, language_of, languages_of_name, settle

CASES = yaml.safe_load((Path(__file__).parent / "languages.yaml").read_text(encoding="utf-8"))


def told(path: str, text: str) -> str | None:
    """The language of a file, asked as the build asks."""
    language = language_of(path, lambda: text.encode()[:256])
    return settle(language, path, text) if language else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['path']} {case['language']}")
def test_languages(case: dict[str, str | None]) -> None:
    path, text = str(case["path"]), case.get("text") or ""
    language = told(path, text)
    assert language == case["language"]
    if is_open(path) and language:
        assert language in languages_of_name(path)


def test_the_head_is_read_only_if_the_name_tells_nothing() -> None:
    def head() -> bytes:
        raise OSError("gone")

    assert language_of("a.py", head) == "Python"
    assert language_of("a.unknown", head) is None
    with pytest.raises(OSError, match="gone"):
        language_of("script", head)


def test_rules_name_known_languages_and_extensions() -> None:
    known = language_map()
    languages = {language for rules in ambiguous().values() for language, _ in rules if language}
    assert languages <= set(known.names)
    assert set(ambiguous()) <= set(known.extensions)
    rows = yaml.safe_load((Path(__file__).parents[3] / "codelm/corpus/data/languages.yaml").read_text(encoding="utf-8"))
    for kind in ("extensions", "filenames", "prefixes", "interpreters"):
        named = [name for row in rows.values() for name in row.get(kind, ())]
        assert len(named) == len(set(named)), kind


@given(st.sampled_from(sorted(ambiguous())), st.text(max_size=300))
def test_any_text_is_settled(extension: str, text: str) -> None:
    assert settle("C", f"a.{extension}", text) in {"C", *(language for language, _ in ambiguous()[extension])}
