"""The stage `<run>/export`: a checkpoint as a bundle of GGUF files with a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from codelm.config.preset import Preset
from codelm.corpus.read import fingerprint
from codelm.errors import UserError
from codelm.evaluation.evaluate import FILE as SCORES
from codelm.evaluation.evaluate import PLOT
from codelm.export.bundle import PRESET, BundleMetadata
from codelm.export.card import model_card, tokens_read
from codelm.export.gguf import write_f16
from codelm.export.quantize import FORMATS, quantize
from codelm.models import served, weights_sha256
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer

ATTRIBUTION = "attribution"
"""Of the index, in a corpus and beside the model files."""
CARD = "MODEL_CARD.md"
CURVES = "loss.png"
"""Of a training, in its folder."""


def export(
    folder: Path, preset: Preset, checkpoint: Path, corpus: Path, tokenizer: Path, trained: Manifest, scores: Mapping[str, Any],
    progress: Progress = silent, context: int | None = None, evaluation: Path | None = None,
    attribution: bool = False,
) -> Manifest:  # fmt: skip
    """Writes `<preset>-f16.gguf`, one file for each of FORMATS, preset.yaml, and MODEL_CARD.md with its pictures.

    trained: the manifest of the training stage. scores: bits_per_byte and exact_match, as evaluation found them. context:
    tokens to serve, if not those of the training; more are reached by YaRN. evaluation: the stage folder whose table the card
    shows. attribution: put the corpus's index there too. Raises UserError if that cannot work, if the checkpoint is damaged or
    the disk is full.
    """
    preset = preset.model_copy(update={"model": served(preset.model, context)})
    vocabulary = Tokenizer(tokenizer / TOKENIZER_FILE)
    weights = weights_sha256(checkpoint)
    corpus_fingerprint, trained_tokens = fingerprint(corpus), tokens_read(trained)
    metadata = BundleMetadata.of(preset, vocabulary.sha256, corpus_fingerprint, weights, trained_tokens, scores)
    inputs = {"weights": weights}
    if evaluation:
        inputs["evaluation"] = Manifest.read(evaluation).fingerprint
    index = corpus / ATTRIBUTION
    if attribution:
        if not index.is_dir():
            raise UserError(f"{index} does not exist", "build the corpus with `attribution: true`")
        inputs[ATTRIBUTION] = Manifest.read(corpus).fingerprint_of(f"{ATTRIBUTION}/")
    config = {"model": preset.model.model_dump(mode="json"), "metadata": json.loads(metadata.model_dump_json())}
    stage = Stage(folder, config, inputs, libraries=("gguf", "llama-cpp-python"))
    if manifest := stage.done():
        return manifest
    try:
        tensors = load_file(checkpoint / "model.safetensors")
    except Exception as error:  # safetensors raises its own and OSError
        raise UserError(f"{checkpoint} is damaged ({error})", "train it again, or give another checkpoint") from error
    with stage.build() as temporary:
        f16 = temporary / f"{preset.name}-f16.gguf"
        steps = 1 + len(FORMATS)
        progress(0, steps, note="f16")
        write_f16(f16, preset.model, vocabulary, tensors, metadata)
        for done, format_ in enumerate(FORMATS, start=1):
            progress(done, steps, note=format_)
            quantize(f16, temporary / f"{preset.name}-{format_}.gguf", format_)
        progress(steps, steps)
        stage.counts = {path.name: path.stat().st_size for path in sorted(temporary.glob("*.gguf"))}
        if attribution:
            shutil.copytree(index, temporary / ATTRIBUTION)
        table = json.loads((evaluation / SCORES).read_text(encoding="utf-8")) if evaluation else None
        curves = (folder / CURVES for folder in checkpoint.parents[:2])  # a running mean lies in a checkpoint
        pictures = [path for path in (*curves, evaluation and evaluation / PLOT) if path and path.exists()]
        for path in pictures:
            shutil.copyfile(path, temporary / path.name)
        names = [path.name for path in pictures]
        card = model_card(preset, metadata, trained, Manifest.read(corpus), stage.counts, table, names)
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / PRESET).write_text(yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return Manifest.read(folder)
