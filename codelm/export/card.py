"""The model card: what a bundle is, what it was trained on, and what it is worth."""

from collections.abc import Mapping

from codelm.config.preset import Preset
from codelm.export.bundle import BundleMetadata
from codelm.models import parameter_count
from codelm.stage import Manifest


def model_card(preset: Preset, metadata: BundleMetadata, trained: Manifest, corpus: Manifest, sizes: Mapping[str, int]) -> str:
    """Markdown with the Hugging Face front matter. preset: with the model as it is served. sizes: file name → bytes."""
    model, scaling = preset.model, preset.model.rope_scaling
    stretched = f", {scaling.original_context:,} × {scaling.factor:g} by {scaling.method} RoPE scaling" if scaling else ""
    files = "\n".join(f"| `{name}` | {size / 1e6:.1f} MB |" for name, size in sizes.items())
    counts = corpus.counts
    licenses = "\n".join(
        f"| {name} | {numbers['files']:,} | {numbers['bytes'] / 1e6:.1f} MB |" for name, numbers in counts["licenses"].items()
    )
    match = "not measured" if metadata.exact_match is None else f"{metadata.exact_match:.1%}"
    return f"""---
library_name: gguf
pipeline_tag: text-generation
tags: [code, fill-in-the-middle, codelm]
---
# codelm-{metadata.name}

{preset.description}. A {model.architecture} decoder of {parameter_count(model):,} parameters ({model.layers} layers ×
{model.width}, {model.heads}/{model.kv_heads} heads × {model.head_dim}, FFN {model.ffn}, vocabulary {model.vocab_size:,},
context {model.context_length:,} tokens{stretched}), trained by codelm {metadata.codelm_version} for code completion.

| file | size |
|---|---|
{files}

Serve it: `codelm serve {metadata.name}-q8_0.gguf`

## On held-out files

| | |
|---|---|
| bits per byte | {metadata.bits_per_byte} |
| single-line exact match, greedy | {match} |

Validation shares no package with training.

## Training

{trained.counts["tokens"]:,} tokens ({trained.counts["epochs"]} epochs) in {trained.counts["steps"]:,} steps,
seed {trained.seed}. {preset.pretrain.fim.rate:.0%} of the pieces of documents were fill-in-the-middle examples, in PSM and SPM
order; serve it in {metadata.fim_order.upper()} order.

## Data

{counts["files_kept"]:,} of {counts["files_seen"]:,} files; corpus `{metadata.corpus_fingerprint[:16]}`. Licences of the files:

| licence | files | size |
|---|---|---|
{licenses}

The notices and licence texts are in the corpus folder (`NOTICE.txt`, `licenses/`). The model may repeat code from its training
data; such code stays under its own licence.

## Limits

A small model completes lines; it neither knows facts nor reviews code. Look at what it writes before you keep it.
"""
