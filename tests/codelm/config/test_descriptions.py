"""Every setting says what it is."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from codelm.config.corpus import CorpusConfig
from codelm.config.load import models_in
from codelm.config.preset import Preset
from codelm.config.stages import StagesConfig
from codelm.evaluation.evaluate import EvaluateConfig


def settings(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[str, str | None]]:
    """Each setting of a model and of the groups in it, with its description; that of a group is the one of its class."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        groups = models_in(field.annotation)
        yield f"{model.__name__}.{name}", field.description or next((group.__doc__ for group in groups), None)
        for group in groups:
            yield from settings(group, seen)


@pytest.mark.parametrize("model", [CorpusConfig, Preset, StagesConfig, EvaluateConfig], ids=lambda model: model.__name__)
def test_every_setting_has_a_description(model: type[BaseModel]) -> None:
    assert [name for name, description in settings(model, set()) if not description] == []
