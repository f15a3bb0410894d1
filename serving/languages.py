"""What cutting a completion needs to know of a programming language. The facts are in languages.yaml."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

BRACKETS = "()[]{}"
NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class Strings:
    """One kind of string or block comment. end: finds what closes it, or what the closer must not be mistaken in."""

    closer: str
    end: re.Pattern[str]
    multi_line: bool


@dataclass(frozen=True)
class Language:
    """How a language is written.

    marks: finds what begins a comment, an atom or a string, and brackets, each in the group of its kind.
    strings: by what opens them. opens: matches a line, without blanks at its end, that begins a block.
    continues: words that go on with a statement whose block ended. decorator: begins a line that belongs to the next one.
    grammar: module and function of the tree-sitter grammar.
    """

    name: str
    marks: re.Pattern[str]
    strings: dict[str, Strings]
    brackets: str
    opens: re.Pattern[str]
    continues: tuple[str, ...] = ()
    decorator: str | None = None
    grammar: tuple[str, str] | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Opening bracket → closing one."""
        return dict(zip(self.brackets[::2], self.brackets[1::2], strict=True))

    def begins_block(self, line: str) -> bool:
        """Whether what follows the line is indented deeper."""
        return bool(self.opens.search(line.rstrip()))

    def decorates(self, line: str) -> bool:
        """Whether the line belongs to the one after it."""
        return self.decorator is not None and line.lstrip().startswith(self.decorator)


def language_of(name: str | None, path: str | None) -> Language:
    """The language by its LSP id, else by the file's extension; else one with the commonest brackets and strings."""
    by_id, default = _languages()
    extension = (path or "").rpartition(".")[2].lower()
    return by_id.get((name or "").lower()) or by_id.get(extension) or default


def language_ids() -> list[str]:
    """The LSP ids and file extensions that are known."""
    return list(_languages()[0])


@cache
def _languages() -> tuple[dict[str, Language], Language]:
    rows = yaml.safe_load((Path(__file__).parent / "languages.yaml").read_text(encoding="utf-8"))
    languages = {name: _language(name, row) for name, row in rows.items()}
    by_id = {id_: languages[name] for name, row in rows.items() for id_ in row.get("ids", ())}
    return by_id, languages["default"]


def _language(name: str, row: dict[str, Any]) -> Language:
    brackets = row.get("brackets", BRACKETS)
    strings = {opener: _strings(closer, flags) for opener, closer, flags in row.get("strings", ())}
    kinds = {
        "comment": row.get("comments", ()),
        "atom": row.get("atoms", ()),
        "string": map(re.escape, strings),
        "bracket": map(re.escape, brackets),
    }
    marks = {kind: "|".join(patterns) or NOTHING.pattern for kind, patterns in kinds.items()}
    openers = "".join(map(re.escape, brackets[::2]))
    opens = [f"[{openers}]"] * bool(openers) + ([row["opens"]] if "opens" in row else [])
    return Language(
        name=name,
        marks=re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in marks.items())),
        strings=strings,
        brackets=brackets,
        opens=re.compile(f"(?:{'|'.join(opens)})$" if opens else NOTHING.pattern),
        continues=tuple(row.get("continues", ())),
        decorator=row.get("decorator"),
        grammar=tuple(row["grammar"]) if "grammar" in row else None,
    )


def _strings(closer: str, flags: str) -> Strings:
    ends = [re.escape(closer)] + [r"\\(?:\r\n|[\s\S])"] * ("e" in flags) + [r"\n"] * ("m" not in flags)
    return Strings(closer, re.compile("|".join(ends)), "m" in flags)
