"""The model card: what a bundle is, how it was trained and on what, what it is worth, and what it is for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codelm.config.preset import Preset
from codelm.config.pretrain import PretrainConfig
from codelm.export.bundle import BundleMetadata
from codelm.models import parameter_count
from codelm.stage import Manifest

LARGEST = 12
"""Languages and packages that are named; licences all are."""


def model_card(
    preset: Preset,
    metadata: BundleMetadata,
    trained: Manifest,
    corpus: Manifest,
    sizes: Mapping[str, int],
    evaluation: Mapping[str, Any] | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Markdown with the Hugging Face front matter.

    preset: with the model as it is served. sizes: file name → bytes. evaluation: the scores.json of `codelm evaluate`; without
    it, the scores in the metadata are told. pictures: files beside the card.
    """
    model, scaling = preset.model, preset.model.rope_scaling
    stretched = f", {scaling.original_context:,} × {scaling.factor:g} by {scaling.method} RoPE scaling" if scaling else ""
    trained_context = scaling.original_context if scaling else model.context_length
    files = rows([f"`{name}`", f"{size / 1e6:.1f} MB"] for name, size in sizes.items())
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

## What it is for

Suggestions of the rest of a line, or of the next line, while one types, on the machine one types on; as a draft for a larger
model with the same tokenizer; as a start for training on one's own code. Not for writing programs from a description, not for
questions, not for review: it knows patterns, no facts.

## On held-out files

{scores_of(metadata, evaluation)}

Validation shares no package with training. Lines are written greedily, with fill-in-the-middle in
{metadata.fim_order.upper()} order, and count if they are exactly what stands in the file, white space at the end aside.
{"".join(f"{chr(10)}![{name.rsplit('.', 1)[0]}]({name}){chr(10)}" for name in pictures)}
## Training

| | |
|---|---|
{rows(recipe(preset.pretrain, trained, trained_context))}

## Data

{data(corpus, metadata)}{learned_before(trained)}

## Limits

- A small model: what it suggests looks right more often than it is. Read it before you keep it.
- It sees {model.context_length:,} tokens around the cursor and no other file.
- It has learned one snapshot of code, mostly in the languages at the top of the table above, with their habits and mistakes.
- It may repeat code from its training data; such code stays under its own licence. `codelm attribute` finds what is verbatim.
"""


def rows(cells: Any) -> str:
    """Rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def scores_of(metadata: BundleMetadata, evaluation: Mapping[str, Any] | None) -> str:
    """A table of all that was measured on the same places, or else of what the metadata say."""
    if evaluation is None:
        match = "not measured" if metadata.exact_match is None else f"{metadata.exact_match:.1%}"
        return f"| | |\n|---|---|\n| bits per byte | {metadata.bits_per_byte} |\n| ends of lines, exactly | {match} |"
    held_out = evaluation["held_out"]
    table = rows(
        [
            system["name"],
            with_interval(system["bits_per_byte"], 1, ".3f", ""),
            *(with_interval(kind and kind["exact_match"], 100, ".1f", " %") for kind in kinds(system)),
            " / ".join(f"{100 * kind['edit_similarity']['value']:.0f} %" for kind in kinds(system) if kind) or "–",
            " / ".join(f"{kind['milliseconds']:.1f}" for kind in kinds(system) if kind) or "–",
        ]
        for system in evaluation["systems"]
    )
    return f"""| | bits per byte | whole lines | ends of lines | edit similarity | ms a line |
|---|---|---|---|---|---|
{table}

{held_out["files"]:,} files of {held_out["repositories"]:,} repositories; {held_out["places"]["whole_line"]:,} whole lines (the
cursor stands behind the indentation), {held_out["places"]["end_of_line"]:,} ends of lines (it stands anywhere in the line), the
same for all. In brackets, 95 % confidence intervals. Milliseconds: of a .gguf as it is served, its prompt never read before; of
the others in batches."""


def kinds(system: Mapping[str, Any]) -> list[Any]:
    """What was measured of whole lines and of ends of lines."""
    return [system["whole_line"], system["end_of_line"]]


def with_interval(estimate: Mapping[str, float] | None, scale: float, format_: str, unit: str) -> str:
    """A value with its confidence interval."""
    if not estimate:
        return "–"
    value, low, high = (format(estimate[name] * scale, format_) for name in ("value", "low", "high"))
    return f"{value}{unit} ({low}–{high})"


def recipe(config: PretrainConfig, trained: Manifest, context: int) -> list[list[str]]:
    """How it was trained, as rows of a name and its setting."""
    counts = trained.counts
    adamw = f"AdamW (learning rate {config.learning_rate:g}, betas {config.betas[0]:g} and {config.betas[1]:g})"
    muon = f"Muon (learning rate {config.muon_learning_rate:g}, momentum {config.momentum:g}) for the matrices of the blocks"
    course = {
        "cosine": f"a cosine down to {config.final_lr_share:.0%} of it",
        "wsd": f"constant, and over the last {config.decay_share:.0%} down to {config.final_lr_share:.0%} of it",
    }
    fim = config.fim
    spans = {name: getattr(fim, name) for name in ("character", "ast", "line", "block", "empty")}
    weights = ", ".join(f"{name} {weight / sum(spans.values()):.0%}" for name, weight in spans.items() if weight)
    extra = {
        "z-loss": config.z_loss,
        "dropout": config.dropout,
        "dropout of attention": config.attention_dropout,
        "running mean of the weights": config.ema,
    }
    data = config.data
    return [
        ["tokens", f"{counts['tokens']:,} ({counts['epochs']} epochs), {counts['steps']:,} steps, seed {trained.seed}"],
        *origin(trained),
        ["time", f"{trained.seconds / 3600:.1f} hours"],
        ["batch", f"{config.batch_size} sequences of {context:,} tokens"],
        ["optimiser", f"{muon}, {adamw} for the rest" if config.optimizer == "muon" else adamw],
        ["weight decay, clipping", f"{config.weight_decay:g}, {config.clip:g}"],
        ["schedule", f"warm-up over {config.warmup_share:.0%} of the steps, then {course[config.schedule]}"],
        *([name, f"{value:g}"] for name, value in extra.items() if value),
        [
            "fill-in-the-middle",
            f"{fim.rate:.0%} of the pieces of documents, {fim.spm_rate:.0%} of these in SPM order, else PSM",
        ],
        *([["its spans", weights]] if fim.rate else []),
        ["packing", f"{data.packing}, documents {'apart' if data.document_mask else 'seeing each other'}"],
        ["mixture", f"by {data.mixture.by}{', another one while the rate decays' if data.anneal else ''}"],
        ["libraries", ", ".join(f"{name} {version}" for name, version in trained.libraries.items())],
    ]


def origin(trained: Manifest) -> list[list[str]]:
    """What a model has from others, as rows of a name and its setting: of a teacher, a base, a model that it began with."""
    config, counts = trained.config, trained.counts
    if lora := config.get("lora"):
        base = named(trained, "base")
        return [["adapter", f"rank {lora['r']}, {counts['trained_parameters']:,} parameters, laid into {base} and merged"]]
    if distill := config.get("distill"):
        weight = f"{distill['alpha']:.0%} of the loss, by its {distill['top_k']} likeliest tokens"
        return [["teacher", f"{named(trained, 'teacher')}, from step {counts['taught_from_step'] + 1:,} on: {weight}"]]
    if "init" in trained.inputs:
        return [["first weights", f"those of {named(trained, 'init')}"]]
    return []


def named(trained: Manifest, role: str) -> str:
    """A model that a training had of others, by its name and the SHA-256 that it is known by."""
    told = trained.counts.get("models", {}).get(role)  # trainings of older versions tell no name
    sha256 = f"`{trained.inputs[role][:16]}`"
    return f"`{told['name']}` (SHA-256 {sha256})" if told else sha256


def exported_before(models: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The exported models whose weights a training has gone on with, at once or by way of others.

    models: of the counts of its manifest.
    """
    for role, model in models.items():
        if role != "teacher":
            if "corpus_fingerprint" in model:
                yield model
            yield from exported_before(model.get("models", {}))


def tokens_read(trained: Manifest) -> int:
    """Tokens that a training has read, and before it those exported models with whose weights it went on."""
    before = exported_before(trained.counts.get("models", {}))
    return int(trained.counts["tokens"]) + sum(model["trained_tokens"] for model in before)


def learned_before(trained: Manifest) -> str:
    """Of a model that was trained on from an exported one, a paragraph on what that one had read."""
    return "".join(
        f"\n\nIts first weights were those of `{model['name']}` (SHA-256 `{model['sha256'][:16]}`). That model had read\n"
        f"{model['trained_tokens']:,} tokens of the corpus `{model['corpus_fingerprint'][:16]}`: its card and notices count\n"
        "for this model too."
        for model in exported_before(trained.counts.get("models", {}))
    )


def data(corpus: Manifest, metadata: BundleMetadata) -> str:
    """What was kept of which packages, under which licences."""
    counts = corpus.counts
    splits = counts["splits"]
    tables = "\n\n".join(
        f"| {name} | files | size |\n|---|---|---|\n{largest(counts[key], limit)}"
        for name, key, limit in (
            ("language", "languages", LARGEST),
            ("package or repository", "repos", LARGEST),
            ("licence", "licenses", len(counts["licenses"])),
        )
    )
    return f"""{counts["files_kept"]:,} of {counts["files_seen"]:,} files: {splits["train"]["bytes"] / 1e6:.1f} MB to train on,
{splits["valid"]["bytes"] / 1e6:.1f} MB in whole packages held out. Snapshot `{counts["snapshot_id"]}`, fingerprint
`{metadata.corpus_fingerprint[:16]}`. Left out were tests, generated and vendored code, copies and near copies, solutions of
benchmarks, and what its licence forbids; secrets and personal data were replaced.

{tables}

Whose code it is, with the copyright lines, says the corpus's `NOTICE.txt`; the licence texts lie beside it."""


def largest(counts: Mapping[str, Mapping[str, int]], limit: int) -> str:
    """Rows of the largest entries by their bytes, and one for all the others."""
    ordered = sorted(counts.items(), key=lambda item: -item[1]["bytes"])
    rest = [number for _, number in ordered[limit:]]
    cells = [(name, number["files"], number["bytes"]) for name, number in ordered[:limit]]
    if rest:
        cells.append((f"{len(rest)} others", sum(one["files"] for one in rest), sum(one["bytes"] for one in rest)))
    return rows([name, f"{files:,}", f"{size / 1e6:.1f} MB"] for name, files, size in cells)
