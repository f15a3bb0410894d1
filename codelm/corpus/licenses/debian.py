"""The licence that a Debian package's copyright file states for one of its files.

Machine-readable copyright files: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from codelm.corpus.licenses.expressions import canonical
from codelm.corpus.licenses.metadata import named_license
from codelm.corpus.licenses.texts import decode, identify_by_phrases

MAX_BYTES = 4_000_000
INSTALLED = re.compile(r"/?usr/(?:local/)?(?:lib|share)/(?:python3(?:\.\d+)?(?:/(?:dist|site)-packages)?|nodejs|node_modules)/")

GNU_NAME = re.compile(r"([al]?gpl|gfdl)-?v?(\d)(?:\.(\d))?(\+?)(?:-only)?(?:-niv)?$", re.IGNORECASE)
NAMES = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-1.0": "Artistic-1.0-Perl",
    "boost-1.0": "BSL-1.0",
    "bsl-1": "BSL-1.0",
    "cc0": "CC0-1.0",
    "epl-1": "EPL-1.0",
    "epl-2": "EPL-2.0",
    "expat": "MIT",
    "fsfap": "FSFAP",
    "mpl-2": "MPL-2.0",
    "perl": "GPL-1.0-or-later OR Artistic-1.0-Perl",
    "public-domain": "LicenseRef-scancode-public-domain",
    "psf": "PSF-2.0",
    "psf-2": "PSF-2.0",
    "python": "Python-2.0",
    "zope-2.1": "ZPL-2.1",
}
EXCEPTIONS = {
    "autoconf": "Autoconf-exception-2.0",
    "bison": "Bison-exception-2.2",
    "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0",
    "gcc": "GCC-exception-3.1",
    "libtool": "Libtool-exception",
    "llvm": "LLVM-exception",
    "openssl": "LicenseRef-openssl-exception",
}


class Stanza(NamedTuple):
    """What one paragraph says of the files it names."""

    globs: tuple[re.Pattern[str], ...]
    spdx: str | None


@lru_cache(maxsize=1024)
def stanzas(copyright_file: Path) -> tuple[Stanza, ...]:
    """The paragraphs of a machine-readable copyright file that name files, in order; none for any other file."""
    from debian_inspector.copyright import (  # type: ignore[import-untyped]
        CopyrightFilesParagraph,
        CopyrightHeaderParagraph,
        DebianCopyright,
        is_machine_readable_copyright,
    )

    try:
        with copyright_file.open("rb") as file:
            text = decode(file.read(MAX_BYTES))
        if not is_machine_readable_copyright(text):
            return ()
        paragraphs = DebianCopyright.from_text(text).paragraphs
        texts = {one.license.name: one.license.text or "" for one in paragraphs if getattr(one, "license", None)}
        found = []
        for one in paragraphs:
            if isinstance(one, CopyrightHeaderParagraph) and one.license.name:
                found.append(Stanza(globs(["*"]), debian_expression(one.license.name, texts)))
            elif isinstance(one, CopyrightFilesParagraph) and one.license.name:
                found.append(Stanza(globs(one.files.values), debian_expression(one.license.name, texts)))
    except Exception:  # the parser raises many things on files that people wrote by hand
        return ()
    return tuple(found)


def debian_license(copyright_file: Path, path: str) -> str | None:
    """The SPDX expression that the last paragraph naming a file states, None if there is none or it is not machine-readable.

    path: of the installed file or inside its package; the globs are of the source package, so their leading folders may differ.
    """
    path = INSTALLED.sub("", path.removeprefix("./"), count=1).lstrip("/")
    matching = [one for one in stanzas(copyright_file) if any(glob.match(path) for glob in one.globs)]
    return matching[-1].spdx if matching else None


def globs(patterns: list[str]) -> tuple[re.Pattern[str], ...]:
    """Globs as expressions; one of a deep folder also holds without its leading folders, as long as two names remain."""
    found = []
    for pattern in patterns:
        parts = pattern.removeprefix("./").split("/")
        while True:
            found.append(re.compile(glob_expression("/".join(parts)) + r"\Z", re.DOTALL))
            parts = parts[1:]
            if sum("*" not in part and "?" not in part for part in parts) < 2:
                break
    return tuple(found)


def glob_expression(pattern: str) -> str:
    """`*` is any text, also with slashes, `?` any character; a backslash takes both their meaning."""
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join({"*": ".*", "?": "."}.get(token) or re.escape(token.removeprefix("\\")) for token in tokens)


def debian_expression(name: str, texts: dict[str, str]) -> str | None:
    """Debian's licence synopsis ("GPL-2+ or Artistic, and Expat") as SPDX. texts: name → text of the licence in the file.

    A name that nobody knows becomes a LicenseRef, which is some licence, but not one that a policy can allow by category.
    """
    if spdx := one_license(name, texts, guess=False):
        return spdx
    # ", and" binds less than "or", and that less than "and"
    for separator, operator in ((r",\s+and\s+", "AND"), (r",?\s+or\s+|\s*\|\s*", "OR"), (r"\s+and\s+|,\s*", "AND")):
        branches = [branch for branch in re.split(separator, name.strip(), flags=re.IGNORECASE) if branch]
        if len(branches) > 1:
            found = [debian_expression(branch, texts) for branch in branches]
            return canonical(f" {operator} ".join(f"({one})" for one in found)) if all(found) else None
    return one_license(name, texts, guess=True)


def one_license(name: str, texts: dict[str, str], guess: bool) -> str | None:
    """One licence, maybe with an exception; None if the name is not known, unless it may be guessed from its text."""
    base, *exception = re.split(r"\s+with\s+|\s+exception\s+", name.strip(), maxsplit=1, flags=re.IGNORECASE)
    gnu = GNU_NAME.match(base)
    if gnu:
        spdx: str | None = f"{gnu[1].upper()}-{gnu[2]}.{gnu[3] or 0}-{'or-later' if gnu[4] else 'only'}"
    else:
        spdx = NAMES.get(base.lower()) or named_license(base)
    if spdx is None and guess:
        spdx = (
            identify_by_phrases(texts.get(name, ""))
            or f"LicenseRef-debian-{re.sub(r'[^A-Za-z0-9.-]+', '-', base).strip('-') or 'unnamed'}"
        )
    if spdx and exception and " " not in spdx:
        word = exception[0].split()[0].lower().removesuffix("-exception") if exception[0].split() else "unnamed"
        spdx += f" WITH {EXCEPTIONS.get(word) or 'LicenseRef-' + (re.sub(r'[^a-z0-9.-]+', '-', word).strip('-') or 'unnamed')}"
    return canonical(spdx)
