"""Writes docs/settings.md, the list of all settings of a training, from what the settings say of themselves.

python scripts/settings_reference.py
"""

import re
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from codelm.config.load import models_in
from codelm.config.preset import Preset
from codelm.config.stages import Stage
from codelm.stage import write_atomically

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Every setting of a training

Written by `python scripts/settings_reference.py`; a test holds it against the code. Each goes into a preset of your own or
behind `--set`: `--set pretrain.fim.rate=0.7`, or as a group, `--set 'pretrain.fim={rate: 0.7}'`. What they are for stands in
[the guide](training.md); the settings of a corpus stand in [another](corpus.md).
"""
PARTS: tuple[tuple[str, type[BaseModel], str], ...] = (
    (
        "A preset",
        Preset,
        "`codelm train pretrain --preset NAME|FILE.yaml`; `distill` and `lora` are for `train distill` and `train lora`",
    ),
    ("A stage", Stage, "`codelm train stages --config NAME|FILE.yaml`, of which each stage has these"),
)


def main() -> None:
    write_atomically(PAGE, page())


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for title, model, where in PARTS:
        parts.append(
            f"## {title}\n\n{where}.\n\n| setting | value | default | |\n|---|---|---|---|\n" + "\n".join(rows(model)) + "\n"
        )
    return "\n".join(parts)


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """A row for each setting; a group's own follow it."""
    found = []
    for name, field in model.model_fields.items():
        groups = models_in(field.annotation)
        cells = (f"`{prefix}{name}`", value(field.annotation), default(field), field.description or "")
        if not groups or field.description:
            found.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        for group in groups:
            found += rows(group, f"{prefix}{name}.")
    return found


def value(annotation: Any) -> str:
    """What may stand there."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return " ".join(f"`{one}`" for one in arguments)
    if typing.get_origin(annotation) is typing.Annotated:
        return value(arguments[0])
    if arguments and type(None) in arguments:
        return " ".join(value(one) for one in arguments if one is not type(None))
    name = getattr(annotation, "__name__", str(annotation)) if not arguments else str(annotation)
    name = re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Z])|\btyping\.", "", name)
    return {"int": "whole number", "float": "number", "bool": "yes or no", "str": "text", "Path": "path"}.get(name, name)


def default(field: FieldInfo) -> str:
    """What is taken where nothing is given."""
    if field.is_required():
        return "to be given"
    standard = field.get_default(call_default_factory=True)
    if standard is None or isinstance(standard, BaseModel):
        return "–"
    return f"`{standard}`" if standard != "" else "–"


if __name__ == "__main__":
    main()
