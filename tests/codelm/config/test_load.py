"""Settings from YAML: what is wrong is named with its line and the nearest right key."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from codelm.config.corpus import CorpusConfig
from codelm.config.load import checked, load_yaml
from codelm.errors import UserError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layers: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    many: list[Inner] = []


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "settings.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_values_and_defaults(tmp_path: Path) -> None:
    config = load_yaml(written(tmp_path, "languages: [python, RUST]\nseed: 3\n"), CorpusConfig)
    assert config.languages == ["Python", "Rust"]
    assert (config.seed, config.sources) == (3, ["stdlib"])
    assert load_yaml(written(tmp_path, "# nothing\n"), CorpusConfig) == CorpusConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nlaguages: [Python]\n", "settings.yaml:2: unknown key 'laguages'; did you mean 'languages'?"),
        ("zzzz: 1\n", "known keys: sources, languages"),
        ("seed: 1\n\nvalid_share: 0.9\n", "settings.yaml:3: valid_share: input should be less than or equal to 0.5"),
        ("languages:\n  - Pyhton\n", "settings.yaml:1: languages: unknown language 'Pyhton'; did you mean 'Python'?"),
        ("sources:\n  - a\n  - 3\n", "settings.yaml:3: sources.1:"),
        ("seed: 1\nsources: [a\nvalid_share: 2\n", "settings.yaml:3: malformed YAML"),
        ("a: b: c\n", "settings.yaml:1: malformed YAML"),
        ("- a\n- b\n", "settings.yaml:1: expected keys with values"),
        ("seed: \x07\n", "malformed YAML"),
        (b"seed: \xff\n", "not UTF-8 text"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_yaml(written(tmp_path, text), CorpusConfig)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nested_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"yaml:2: unknown key 'inner.layer'; did you mean 'layers'\?"):
        load_yaml(written(tmp_path, "inner:\n  layer: 2\n"), Outer)
    with pytest.raises(UserError, match=r"yaml:3: unknown key 'many.1.layer'; did you mean 'layers'\?"):
        load_yaml(written(tmp_path, "many:\n  - layers: 2\n  - layer: 2\n"), Outer)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_yaml(tmp_path / "none.yaml", CorpusConfig)
    with pytest.raises(UserError, match="directory"):
        load_yaml(tmp_path, CorpusConfig)


def test_options() -> None:
    with pytest.raises(UserError, match="valid_share"):
        checked({"valid_share": 2.0}, CorpusConfig)
