"""The stage `<run>/evaluate`: what a trained model is worth on the validation split."""

import json
from pathlib import Path

from pydantic import Field

from codelm.config.settings import Settings
from codelm.corpus.read import fingerprint, read_rows
from codelm.corpus.tokens import open_shard
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer

FILE = "scores.json"


class EvaluateConfig(Settings):
    """How much is looked at."""

    seed: int = 0
    tokens: int = Field(100_000, gt=0, description="of the validation split, for bits per byte")
    places: int = Field(256, gt=0, description="cursors, for single-line exact match")


def evaluate(
    folder: Path,
    config: EvaluateConfig,
    checkpoint: Path,
    corpus: Path,
    tokens: Path,
    tokenizer: Path,
    progress: Progress = silent,
) -> Manifest:
    """Writes scores.json: bits_per_byte and exact_match of a Hugging Face checkpoint on the validation split."""
    from codelm.evaluation.bits_per_byte import bits_per_byte
    from codelm.evaluation.exact_match import exact_match
    from codelm.evaluation.places import draw_places
    from codelm.models import load_model, weights_sha256

    inputs = {
        "corpus": fingerprint(corpus),
        "tokens": Manifest.read(tokens).fingerprint,
        "weights": weights_sha256(checkpoint),
    }
    stage = Stage(folder, config, inputs, config.seed, libraries=("torch", "transformers"))
    if manifest := stage.done():
        return manifest
    vocabulary = Tokenizer(tokenizer / TOKENIZER_FILE)
    model = load_model(checkpoint)
    with stage.build() as temporary:
        progress(0, 2, note="bits per byte")
        bits = bits_per_byte(model, open_shard(tokens, "valid"), vocabulary, config.tokens)
        progress(1, 2, note="single-line exact match")
        places = draw_places([row["content"] for row in read_rows(corpus, "valid")], config.places, config.seed)
        match = round(exact_match(model, vocabulary, places), 4) if places else None
        progress(2, 2)
        stage.counts = {"bits_per_byte": round(bits, 4), "exact_match": match, "places": len(places)}
        (temporary / FILE).write_text(json.dumps(stage.counts, indent=2) + "\n", encoding="utf-8")
    return Manifest.read(folder)
