"""What the settings of the data say of a training."""

import pytest

from codelm.config.data import AnnealConfig, DataConfig


@pytest.mark.parametrize(
    ("config", "packs"),
    [
        (DataConfig(), False),
        (DataConfig(anneal=AnnealConfig()), False),
        (DataConfig(repo_share=0.1), True),
        (DataConfig(anneal=AnnealConfig(repo_share=0.1)), True),
    ],
)
def test_whether_repositories_are_packed(config: DataConfig, packs: bool) -> None:
    assert config.packs_repositories is packs
