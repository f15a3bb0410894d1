"""The sizes that a plan foretells are those of the files that are made."""

from pathlib import Path

import pytest

from codelm.config.preset import Preset
from training.plan.sizes import FORMATS, checkpoint_bytes, gguf_bytes, matters_more


@pytest.mark.parametrize("format_", FORMATS)
def test_a_gguf_is_as_large_as_foretold(bundle: Path, tokenizer_dir: Path, tiny_preset: Preset, format_: str) -> None:
    size = (bundle / f"tiny-{format_}.gguf").stat().st_size
    assert gguf_bytes(tiny_preset.model, format_, tokenizer_dir / "tokenizer.json") == pytest.approx(size, rel=0.005)
    assert gguf_bytes(tiny_preset.model, format_) == pytest.approx(size, rel=0.02)


def test_a_checkpoint_is_as_large_as_foretold(checkpoint: Path, tiny_preset: Preset) -> None:
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert checkpoint_bytes(tiny_preset.model, tiny_preset.pretrain) == pytest.approx(size, rel=0.02)


def test_blocks_that_matter_more() -> None:
    assert [block for block in range(12) if matters_more(block, 12)] == [0, 3, 6, 9, 10, 11]
