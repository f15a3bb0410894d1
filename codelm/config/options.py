"""Settings given one by one on the command line: `--set pretrain.learning_rate=1e-3`."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from codelm.config.load import models_in
from codelm.config.preset import merged
from codelm.errors import UserError


def parse_settings(given: Sequence[str], *models: type[BaseModel]) -> dict[str, Any]:
    """`a.b=c` for each of `given` → {"a": {"b": c}}, values in YAML; a later one wins.

    models: whose keys they may be, dotted. Raises UserError for what is not KEY=VALUE and for a key that none of them has,
    with the nearest that there is.
    """
    changes: dict[str, Any] = {}
    for one in given:
        key, equals, text = one.partition("=")
        if not equals:
            raise UserError(f"--set {one}: the value is missing", "write it as --set pretrain.learning_rate=0.001")
        check_key(key, models)
        value = parse_value(key, text)
        for part in reversed(key.split(".")):
            value = {part: value}
        changes = merged(changes, value)
    return changes


def parse_value(key: str, text: str) -> Any:
    """A value in YAML, where 1e-3 is a number too. Raises UserError if it is malformed."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: {text!r} is not YAML", "put quotes around the value") from error
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def check_key(key: str, models: Sequence[type[BaseModel]]) -> None:
    """Raises UserError if none of the models has such a dotted key."""
    known = [name for model in models for name in dotted(model)]
    if key in known:
        return
    last = key.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in reversed(known)}
    # a key without its group is the likelier slip than a misspelt one
    close = [by_last[last]] if last in by_last else difflib.get_close_matches(key, known, n=1)
    close = close or [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1)]
    fix = (
        f"did you mean {close[0]!r}?"
        if close
        else f"keys begin with {', '.join(dict.fromkeys(name for model in models for name in model.model_fields))}"
    )
    raise UserError(f"--set: unknown key {key!r}", fix)


def dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a model, dotted, the groups too."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for group in models_in(field.annotation):
            yield from dotted(group, f"{prefix}{name}.")
