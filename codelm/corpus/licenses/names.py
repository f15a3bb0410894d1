"""Which files are licence texts and notices, by their names, and for which folder they hold."""

import re
from typing import NamedTuple

from codelm.corpus.languages import language_of_name

KNOWN = "0bsd|a?gpl|lgpl|gnu|apache|artistic|boost|bsd|bsl|cc0|cddl|epl|isc|mit|mpl|psf|unicode|x11|zlib"
LICENSE = re.compile(
    rf"(?:(?:un)?licen[sc]es?|copying|copyright|(?:{KNOWN})(?:-?v?\d[\d.]*)?[-_]licen[sc]e)(?:\d|[-_.,+ ()][\w.+, ()-]*)?$",
    re.IGNORECASE,
)
NOTICE = re.compile(
    r"(?:notices?|(?:.*[-_. ])?(?:3rd|third)[-_. ]?part(?:y|ies)[-_. ]?(?:notices?|licen[sc]es?)(?:text)?"
    r"|licen[sc]es?[-_. ](?:3rd|third)[-_. ]?part(?:y|ies))(?:[-_.](?:txt|md|rst|html?|\d[\w.]*|[a-z]+))?$",
    re.IGNORECASE,
)
COPYRIGHT = re.compile(r"copyright", re.IGNORECASE)
OTHER_KINDS = re.compile(
    r"\.(?:bak|bin|bmp|cfg|conf|css|csv|docx?|gif|gz|ico|ini|jar|jpe?g|json5?|license|lock|map|mo|odt|orig|patch|pdf|png|po|pot|properties"
    r"|pyc|pyi|rc|rtf|snap|spdx|svg|tar|tmpl|tml|tpl|toml|ttf|vue|webp|wxl|xaml|xlsx?|xml|xsl|ya?ml|zip)$",
    re.IGNORECASE,
)
"""Endings that a file named like a licence has if it is none: pictures, data, templates."""
TEXTS = "LICENSES"
"""A folder of all licence texts in use: https://reuse.software/spec/"""
IN_TEXTS = re.compile(r"(?!readme)[\w+-]+(?:\.[\d][\w+-]*)*(?:\.txt)?$", re.IGNORECASE)
"""What is a text in there: MIT.txt, GPL-2.0."""


def is_license_name(path: str) -> bool:
    """Whether a file is a licence, copying, copyright or notice file, by its name."""
    name = path.rpartition("/")[2]
    if len(name) > 100 or OTHER_KINDS.search(name) or language_of_name(name) is not None:
        return False
    in_texts = f"/{TEXTS}/" in f"/{path}" and bool(IN_TEXTS.match(name))
    return in_texts or bool(LICENSE.match(name) or NOTICE.match(name))


def is_notice_name(path: str) -> bool:
    """Whether a file that came with licences does not say what holds for the files around it: notices, authors, read-mes."""
    return bool(NOTICE.match(path.rpartition("/")[2])) or not is_license_name(path)


class Scope(NamedTuple):
    """For what a licence file holds."""

    folder: str
    texts_only: bool
    """whether it stands among texts that hold only for the files that refer to them"""


def scope(path: str, metadata: bool = True) -> Scope:
    """The folder that a licence file holds for: its own, but a LICENSES folder holds for the one around it.

    With `metadata`, what stands in NAME.dist-info holds for what is beside that, and NAME.dist-info/licenses repeats the
    folders of the sources (PEP 639).
    """
    parts = path.split("/")[:-1]
    texts_only = TEXTS in parts
    if texts_only:
        parts = parts[: parts.index(TEXTS)]
    for index, part in enumerate(parts if metadata else []):
        if part.endswith((".dist-info", ".egg-info")):
            inside = parts[index + 2 :] if parts[index + 1 : index + 2] == ["licenses"] else []
            return Scope("/".join(parts[:index] + inside[inside[:1] in (["src"], ["lib"]) :]), texts_only)
    return Scope("/".join(parts), texts_only)


def metadata_folder(path: str) -> tuple[str, str] | None:
    """The folder that holds a NAME.dist-info, and its name; None for a path that is in none."""
    found = re.match(r"(?:(.*?)/)?([^/]+\.(?:dist|egg)-info)/", path, re.DOTALL)
    return (found[1] or "", found[2]) if found else None
