import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.languages import language_of
from serving.lexer import CHUNK, Surroundings, balance, chunks, chunks_from_end

CASES = [
    ("python", 'x = (1, "(", \'[\', """\n{\n""") # (', (), ()),
    ("python", "f(a[0]", (), ("(",)),
    ("python", "a) + b]", (")", "]"), ()),
    ("python", "f([1, 2)", (), ()),
    ("python", "'it\\'s (' + (", (), ("(",)),
    ("javascript", "a = /[(]/; b = c / d / (e", (), ("(",)),
    ("javascript", "// (\n/* { */ [", (), ("[",)),
    ("go", "x := `\\`; y(", (), ("(",)),
    ("rust", "fn f<'a>(x: &'a str) { '{'; r#\"(\"# }", (), ()),
    ("cpp", 'auto s = R"(")}" ( )"; int x = 1\'000;', (), ()),
    ("sh", "echo $# ${#x} # }", (), ()),
    ("html", "<p>it's :) <!-- } --></p>", (), ()),
]


@pytest.mark.parametrize(("language", "text", "closes", "opens"), CASES)
def test_strings_and_comments_do_not_count(language: str, text: str, closes: tuple[str, ...], opens: tuple[str, ...]) -> None:
    found = balance(text, language_of(language, None), None)
    assert (found.closes, found.opens) == (closes, opens)


@pytest.mark.parametrize(
    ("language", "prefix", "mode"),
    [
        ("python", "x = 'a", "'"),
        ("python", "x = 'a\n", None),
        ("go", "a // b", "\n"),
        ("js", "`a\n", "`"),
        ("c", "a /* b\n", "/*"),
    ],
)
def test_what_the_cursor_is_in(language: str, prefix: str, mode: str | None) -> None:
    assert Surroundings(prefix, "", language_of(language, None)).mode == mode


def test_by_extension_where_the_client_names_no_language() -> None:
    assert language_of(None, "a/b.tsx").name == "TSX"
    assert language_of("", "a.h").name == "C"
    assert language_of("typescript", "a.py").name == "TypeScript"
    assert language_of("klingon", None).name == "default"


@given(st.lists(st.text(st.sampled_from("ab(){}'\" "), max_size=300), max_size=80).map("\n".join), st.data())
def test_long_files_are_read_in_chunks_that_add_up(text: str, data: st.DataObject) -> None:
    for cut in (chunks, chunks_from_end):
        assert "".join(cut(text)) == text
        assert all(len(part) <= CHUNK + 301 for part in cut(text))
    assert chunks(text + "\n(")[:-2] == chunks(text)[:-2]
    assert chunks_from_end("(\n" + text)[2:] == chunks_from_end(text)[2:]
    cursor = data.draw(st.integers(0, len(text)))
    go = language_of("go", None)
    assert Surroundings(text[:cursor], text[cursor:], go).of("").mode == balance(text, go, None).mode
