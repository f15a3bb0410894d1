"""What all settings have in common."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Settings refuse keys they do not know and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def differing(one: dict[str, Any], other: dict[str, Any], missing: Any = None) -> dict[str, tuple[Any, Any]]:
    """Name → both values, where they are not equal."""
    pairs = {name: (one.get(name, missing), other.get(name, missing)) for name in [*one, *(n for n in other if n not in one)]}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= flat(one, f"{prefix}{name}.") if isinstance(one, dict) else {prefix + name: one}
    return found
