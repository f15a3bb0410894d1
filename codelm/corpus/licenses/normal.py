"""The words of a licence text, as far as they do not differ between two copies of one licence; and their hash."""

import hashlib
import re

COPYRIGHT_LINE = re.compile(
    r"(?im)^\W{0,8}(?:(?:portions )?copyright\b.{0,60}?(?:\b\d{4}\b|\(c\)|©|<|\[|\{|\byear\b|yyyy)|\(c\) ?\d{4}|©).{0,200}$"
)
RIGHTS_LINE = re.compile(r"(?im)^\W{0,8}all rights reserved\.?\W*$")
TITLE_WORDS = (
    "the|a|mit|isc|bsd|apache|boost|zlib|licen[sc]es?|licensed|software|new|simplified|modified|revised|original|expat|x11"
    "|[0-4]|v|clause|two|three|four|style|version|text|of|terms|md|file"
)
TITLE = re.compile(rf"(?:\W*\b(?:{TITLE_WORDS})\b)+\W*\n")
"""A first line that only names the licence. Those of the GNU family are part of their texts, and stay."""
NAMED_IN_BSD = re.compile(r"\bneither the names? .{1,120}? nor the names?\b")
WORD = re.compile(r"[a-z0-9]+")


def normal(text: str) -> str:
    """The words in lower case, without marks, copyright lines, first lines that are only a title, names in a BSD text."""
    text = RIGHTS_LINE.sub("", COPYRIGHT_LINE.sub("", text)).strip().lower() + "\n"
    while title := TITLE.match(text):
        if not title.end():
            break
        text = text[title.end() :].lstrip()
    plain = " ".join(WORD.findall(text)).replace("licence", "license").replace("https", "http")
    return NAMED_IN_BSD.sub("neither the name of x nor the names", plain)


def normal_hash(text: str) -> str:
    """16 hexadecimal digits that tell the words of a licence text."""
    return hashlib.blake2b(normal(text).encode(), digest_size=8).hexdigest()
