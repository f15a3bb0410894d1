"""The engine on machines that lack something."""

from pathlib import Path

import pytest
import torch

from codelm.config.preset import Preset
from training.engine import why_not_compilable
from training.pretrain import pretrain


def test_without_a_compiler_training_goes_on_and_says_so(
    tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "nowhere")
    reason = why_not_compilable(torch.device("cpu"))
    assert reason
    said: list[str] = []
    settings = tiny_preset.with_training(tokens=1_024, engine={"compile": True})
    pretrain(tmp_path / "pretrain", settings, tokens_dir, tokenizer_dir, say=said.append)
    assert f"training uncompiled: {reason}" in said
