"""Settings from YAML or from options, with errors that name the line and the nearest right key."""

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from codelm.errors import UserError

Settings = TypeVar("Settings", bound=BaseModel)


def load_yaml(path: Path, model: type[Settings]) -> Settings:
    """The settings of a YAML file. Raises UserError if it is missing, malformed, or does not fit the model."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}", "give the path of a readable YAML file") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: malformed YAML: {error.problem}", "correct that line") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: malformed YAML: {str(error).splitlines()[0]}", "correct the file") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: expected keys with values", f"write lines such as '{next(iter(model.model_fields))}: …'")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = worst(error)
        raise explained(first, model, f"{path}:{line_of(tree, first['loc'])}") from error


def checked(values: Mapping[str, Any], model: type[Settings], where: str = "settings") -> Settings:
    """The settings that options gave. Raises UserError if they do not fit the model."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise explained(worst(error), model, where) from error


def worst(error: ValidationError) -> ErrorDetails:
    """The problem to tell first: a misspelt key explains the missing one."""
    return min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")


def explained(error: ErrorDetails, model: type[BaseModel], where: str) -> UserError:
    """What one validation error says to a user."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = keys_at(model, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return UserError(f"{where}: unknown key {key!r}", fix)
    message = error["msg"].removeprefix("Value error, ")
    place, fix = (f"{where}: {key}", f"correct {key!r}") if key else (where, "change one of them")
    return UserError(f"{place}: {message[:1].lower()}{message[1:]}", fix)


def keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that a (nested) model has at a place."""
    found: type[BaseModel] | None = model
    for part in loc:
        field = found.model_fields.get(str(part)) if found else None
        if field is not None:
            found = next(iter(models_in(field.annotation)), None)
    return list(found.model_fields) if found else []


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as `X | None` or `list[X]` holds."""
    if arguments := typing.get_args(annotation):
        return [model for argument in arguments for model in models_in(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The line, counted from 1, of the deepest node on the way to `loc` that the file has."""
    line = node.start_mark.line if node else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1
