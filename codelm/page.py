"""Pages of HTML that need no network and no script: a template and the look that all of them share (page.css)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

SHARED = Path(__file__).parent


def rendered(template: Path, content: Mapping[str, Any]) -> str:
    """The text of a page. Names that the template wants and `content` lacks are errors; lone surrogates become marks."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page: str = environment.get_template(template.name).render(**content)
    return page.encode("utf-8", "replace").decode()
