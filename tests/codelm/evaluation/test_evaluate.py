"""The evaluation stage."""

import json
from pathlib import Path

import pytest

from codelm.errors import UserError
from codelm.evaluation.evaluate import FILE, EvaluateConfig, evaluate
from codelm.stage import Manifest


def test_scores_are_written_once(checkpoint: Path, corpus: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tokens=2_048, places=4)
    folder = tmp_path / "evaluate"
    first = evaluate(folder, config, checkpoint, corpus, tokens_dir, tokenizer_dir)
    assert json.loads((folder / FILE).read_text(encoding="utf-8")) == first.counts
    assert first.counts["places"] == 4
    assert 0 < first.counts["bits_per_byte"] < 8
    assert 0 <= first.counts["exact_match"] <= 1
    assert evaluate(folder, config, checkpoint, corpus, tokens_dir, tokenizer_dir) == first
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        evaluate(folder, config, tmp_path / "nowhere", corpus, tokens_dir, tokenizer_dir)
    assert Manifest.read(folder) == first
