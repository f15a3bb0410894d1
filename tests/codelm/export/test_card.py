"""What the model card says."""

from pathlib import Path

import pytest

from codelm.config.preset import Preset
from codelm.export.bundle import BundleMetadata
from codelm.export.card import largest, model_card
from codelm.fim import Order
from codelm.stage import Manifest

METADATA = BundleMetadata(
    name="tiny",
    codelm_version="1",
    context_length=512,
    fim_order=Order.SPM,
    tokenizer_sha256="",
    corpus_fingerprint="f" * 64,
    bits_per_byte=1.5,
    exact_match=0.125,
)
ESTIMATE = {"value": 0.25, "low": 0.2, "high": 0.3}
KIND = {"exact_match": ESTIMATE, "edit_similarity": ESTIMATE, "milliseconds": 8.0}
EVALUATION = {
    "held_out": {"files": 10, "repositories": 2, "bytes": 99, "places": {"whole_line": 7, "end_of_line": 0}, "tokens": 5},
    "systems": [
        {"name": "tiny", "bits_per_byte": {"value": 1.5, "low": 1.4, "high": 1.6}, "whole_line": KIND, "end_of_line": KIND},
        {"name": "no bits, no ends", "bits_per_byte": None, "whole_line": KIND, "end_of_line": None},
    ],
}


@pytest.fixture
def training(trained: Path) -> Manifest:
    return Manifest.read(trained)


def card(preset: Preset, training: Manifest, corpus: Path, **more: object) -> str:
    return model_card(preset, METADATA, training, Manifest.read(corpus), {"tiny-q8_0.gguf": 5_000_000}, **more)  # type: ignore[arg-type]


def test_the_table_has_a_row_for_each_system(tiny_preset: Preset, training: Manifest, corpus: Path) -> None:
    text = card(tiny_preset, training, corpus, evaluation=EVALUATION, pictures=["loss.png"])
    assert "| tiny | 1.500 (1.400–1.600) | 25.0 % (20.0–30.0) | 25.0 % (20.0–30.0) | 25 % / 25 % | 8.0 / 8.0 |" in text
    assert "| no bits, no ends | – | 25.0 % (20.0–30.0) | – | 25 % | 8.0 |" in text
    assert "7 whole lines" in text
    assert "![loss](loss.png)" in text


def test_without_an_evaluation_the_metadata_speak(tiny_preset: Preset, training: Manifest, corpus: Path) -> None:
    text = card(tiny_preset, training, corpus)
    assert "| bits per byte | 1.5 |" in text
    assert "12.5%" in text
    assert "![" not in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"optimizer": "muon", "muon_learning_rate": 0.03}, "Muon (learning rate 0.03"),
        ({"schedule": "wsd", "decay_share": 0.3, "final_lr_share": 0}, "constant, and over the last 30% down to 0% of it"),
        ({"schedule": "cosine", "warmup_share": 0.05}, "warm-up over 5% of the steps, then a cosine down to 10% of it"),
        ({"z_loss": 1e-4}, "| z-loss | 0.0001 |"),
        ({"fim": {"rate": 0.7, "character": 1, "line": 3, "block": 0}}, "character 25%, line 75%"),
        ({"fim": {"rate": 0.0}}, "0% of the pieces"),
        ({"data": {"document_mask": True}}, "documents apart"),
    ],
)
def test_the_recipe(tiny_preset: Preset, training: Manifest, corpus: Path, settings: dict[str, object], told: str) -> None:
    assert told in card(tiny_preset.with_training(**settings), training, corpus)


def test_a_model_that_was_trained_on_names_the_one_before(tiny_preset: Preset, training: Manifest, corpus: Path) -> None:
    plain = card(tiny_preset, training, corpus)
    assert "first weights" not in plain.lower()
    first = {"name": "nano-q8_0.gguf", "sha256": "a" * 64, "trained_tokens": 3_000, "corpus_fingerprint": "c" * 64}
    begun = training.model_copy(
        update={"inputs": training.inputs | {"init": "a" * 64}, "counts": training.counts | {"models": {"init": first}}}
    )
    text = card(tiny_preset, begun, corpus)
    assert f"| first weights | those of `nano-q8_0.gguf` (SHA-256 `{'a' * 16}`) |" in text
    assert f"3,000 tokens of the corpus `{'c' * 16}`" in text
    # by way of a checkpoint, too; a teacher's weights are none of a model's
    trunk = {"name": "pretrain/checkpoint-4", "sha256": "b" * 64, "models": {"init": first}}
    branch = begun.model_copy(update={"counts": training.counts | {"models": {"from": trunk}}})
    assert "3,000 tokens of the corpus" in card(tiny_preset, branch, corpus)
    taught = begun.model_copy(update={"counts": training.counts | {"models": {"teacher": first}}})
    assert "3,000 tokens of the corpus" not in card(tiny_preset, taught, corpus)


def test_small_entries_are_summed_up() -> None:
    counts = {name: {"files": 1, "bytes": size * 1_000_000} for name, size in (("a", 1), ("b", 3), ("c", 2))}
    assert largest(counts, 1).splitlines() == ["| b | 1 | 3.0 MB |", "| 2 others | 2 | 3.0 MB |"]
    assert len(largest(counts, 3).splitlines()) == 3
