"""The guides: their settings load, their links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelm.config.corpus import CorpusConfig, Settings
from codelm.config.data import DataConfig, FimConfig
from codelm.config.preset import load_preset
from codelm.config.stages import StagesConfig
from codelm.config.watch import WatchConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = {"sources", "languages"}
"""Settings that the guide shows other values of than the defaults."""


def settings_in(page: Path) -> list[dict[str, Any]]:
    """The YAML blocks of a page."""
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    ]


def names(model: Settings, prefix: str = "") -> set[str]:
    """Every setting, dotted."""
    found: set[str] = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        found |= names(value, f"{prefix}{name}.") if isinstance(value, Settings) else {prefix + name}
    return found


def dotted(values: dict[str, Any], known: set[str], prefix: str = "") -> set[str]:
    """The settings in a YAML tree, dotted."""
    found: set[str] = set()
    for name, value in values.items():
        inside = isinstance(value, dict) and prefix + name not in known
        found |= dotted(value, known, f"{prefix}{name}.") if inside else {prefix + name}
    return found


def test_the_guide_to_the_corpus_has_every_setting_with_its_default() -> None:
    whole, *parts = settings_in(ROOT / "docs" / "corpus.md")
    known = names(CorpusConfig())
    assert dotted(whole, known) == known
    assert CorpusConfig(**whole).model_dump(exclude=EXAMPLES) == CorpusConfig().model_dump(exclude=EXAMPLES)
    for part in parts:
        CorpusConfig(**part)


def test_the_guide_to_training_has_settings_that_load_and_those_of_the_data_with_their_defaults() -> None:
    presets = [values for values in settings_in(ROOT / "docs" / "training.md") if "pretrain" in values]
    for values in presets:
        load_preset("nano").with_changes(values)
    whole = next(values["pretrain"] for values in presets if "fim" in values["pretrain"] and "data" in values["pretrain"])
    assert set(whole["fim"]) == set(FimConfig.model_fields)
    assert FimConfig(**whole["fim"]) == FimConfig()
    assert set(whole["data"]) == set(DataConfig.model_fields)
    assert DataConfig(**whole["data"]) == DataConfig()
    watch = next(values["pretrain"]["watch"] for values in presets if "log_every" in values["pretrain"].get("watch", {}))
    assert set(watch) == set(WatchConfig.model_fields)
    assert WatchConfig(**watch) == WatchConfig()


def test_the_guide_to_training_has_stages_that_load() -> None:
    (values,) = [values for values in settings_in(ROOT / "docs" / "training.md") if "stages" in values]
    for stage in StagesConfig.model_validate(values).stages:
        stage.resolved()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in re.findall(r"^#+ .*$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        assert (page.parent / path).exists(), target
        assert path or heading in headings, target
