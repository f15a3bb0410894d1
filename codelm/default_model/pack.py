"""A finished run → the bundle of the default model: small, whole, and able to say where it comes from."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codelm.config.corpus import LicensePolicy
from codelm.config.preset import Preset, load_preset
from codelm.default_model.locate import default_model
from codelm.errors import UserError
from codelm.evaluation.evaluate import FILE as SCORES
from codelm.evaluation.evaluate import PLOT, plot
from codelm.export.bundle import PRESET, BundleMetadata
from codelm.export.card import exported_before, model_card, tokens_read
from codelm.export.export import CARD, CURVES
from codelm.export.rewrite import set_text
from codelm.models import parameter_count, served
from codelm.stage import MANIFEST, Manifest, Stage

LARGEST = 25_000_000
"""Bytes of a GGUF that may live in the repository."""
METRICS, RECORD, NOTICE, LICENSES = "metrics.jsonl", "training.json", "NOTICE.txt", "licenses.zip"
TEXTS = "licenses/"
ROWS = 400
"""Logged steps that are kept of the curve."""
CHECKSUM = "batch_crc32"
ABOUT_CORPUS = ("snapshot_id", "files_seen", "files_kept", "rejected", "redactions", "languages", "licenses", "splits", "repos")


def pack(bundle: Path, model: Path, pretrain: Path, corpus: Path, evaluation: Path, as_served: Path) -> Manifest:
    """Writes the bundle in the place of the one that stood, or leaves that alone if anything goes wrong.

    model: the Q8_0 file of an export. pretrain, corpus: the stage folders. evaluation, as_served: those of the checkpoint, with
    all that stands beside it, and of the model in llama.cpp, at the same places. Of a training that began with the model that
    stood, its notices and licence texts are kept.
    Raises UserError if the model is too large, if it has learned what may not be passed on, or if the places differ.
    """
    exported = Manifest.read(model.parent)
    trained, data = Manifest.read(pretrain), Manifest.read(corpus)
    check(model, data)
    before = began_with(bundle, trained)
    scores = merged(evaluation, as_served)
    inputs = {"export": exported.fingerprint, "corpus": data.fingerprint_of("snapshot/")}
    stage = Stage(bundle, {"model": exported.config["model"], "scores": scores}, inputs | {"pretrain": trained.fingerprint})
    metadata = BundleMetadata.model_validate(exported.config["metadata"])
    preset = load_preset(str(pretrain / PRESET))
    preset = preset.model_copy(update={"model": served(preset.model, metadata.context_length)})
    with stage.build() as folder:
        shutil.copyfile(model, folder / model.name)
        shutil.copyfile(pretrain / PRESET, folder / PRESET)
        shutil.copyfile(pretrain / CURVES, folder / CURVES)
        (folder / METRICS).write_text(thinned((pretrain / METRICS).read_text(encoding="utf-8")), encoding="utf-8")
        record = {"training": described(trained), "corpus": described(data, ABOUT_CORPUS), "export": described(exported)}
        (folder / RECORD).write_text(dumped(record), encoding="utf-8")
        notice = (corpus / NOTICE).read_text(encoding="utf-8").replace("in the folder licenses", f"in {LICENSES}")
        notice = "A model was trained on the corpus that this notice is of.\n" + notice
        texts = {path.name: path.read_bytes() for path in (corpus / "licenses").glob("*.txt")}
        if before:
            earlier = (before / NOTICE).read_text(encoding="utf-8")
            if notice in earlier:  # of the same corpus
                notice = earlier
            else:
                notice = f"{notice}\n{'=' * 79}\nIts first weights were those of another model. Of that one:\n\n{earlier}"
            texts |= texts_of(before / LICENSES)
        (folder / NOTICE).write_text(notice, encoding="utf-8")
        zip_texts(texts, folder / LICENSES)
        stage.counts = write_scores(folder, model.name, scores, preset, metadata, trained, data)
    return Manifest.read(bundle)


def rescore(bundle: Path, evaluation: Path, as_served: Path) -> Manifest:
    """Writes another evaluation of the model that stands in the place of its scores; its weights stay as they are.

    evaluation, as_served: as `pack` takes them, of the model read back and of its file. What the file tells of itself is
    written anew too. Raises UserError if the places differ, or if there is no whole bundle; that is then left alone.
    """
    model = default_model(bundle)
    stood, scores = Manifest.read(bundle), merged(evaluation, as_served)
    record = json.loads((bundle / RECORD).read_text(encoding="utf-8"))
    trained, data = (manifest_of(record[name]) for name in ("training", "corpus"))
    exported = record["export"]["config"]
    measured = {name: Manifest.read(evaluation).counts[name] for name in ("bits_per_byte", "exact_match", "whole_line_match")}
    before = BundleMetadata.model_validate(exported["metadata"])
    metadata = before.model_copy(update=measured | {"trained_tokens": tokens_read(trained)})
    exported["metadata"] = metadata.model_dump(mode="json")
    preset = load_preset(str(bundle / PRESET))
    preset = preset.model_copy(update={"model": served(preset.model, metadata.context_length)})
    stage = Stage(bundle, {"model": exported["model"], "scores": scores}, stood.inputs)
    with stage.build() as folder:
        shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
        for key, text in sorted(metadata.to_gguf().items() - before.to_gguf().items()):
            set_text(folder / model.name, key, text)
        (folder / RECORD).write_text(dumped(record), encoding="utf-8")
        stage.counts = write_scores(folder, model.name, scores, preset, metadata, trained, data)
    return Manifest.read(bundle)


def write_scores(
    folder: Path,
    model: str,
    scores: dict[str, Any],
    preset: Preset,
    metadata: BundleMetadata,
    trained: Manifest,
    data: Manifest,
) -> dict[str, Any]:
    """Writes table, plot and card beside a model; returns what the bundle's manifest counts."""
    (folder / SCORES).write_text(dumped(scores), encoding="utf-8")
    plot(scores, folder / PLOT)
    size = {model: (folder / model).stat().st_size}
    card = model_card(preset, metadata, trained, data, size, scores, [CURVES, PLOT])
    (folder / CARD).write_text(card, encoding="utf-8")
    return {
        "model": model,
        "bytes": size[model],
        "parameters": parameter_count(preset.model),
        "tokens": tokens_read(trained),
        "bits_per_byte": metadata.bits_per_byte,
        "exact_match": metadata.exact_match,
        "whole_line_match": metadata.whole_line_match,
    }


def check(model: Path, corpus: Manifest) -> None:
    """Raises UserError for a model that may not be passed on with codelm."""
    size = model.stat().st_size
    if size > LARGEST:
        raise UserError(f"{model} has {size / 1e6:.1f} MB", f"a default model has {LARGEST / 1e6:.0f} MB at most")
    policy, default = LicensePolicy.model_validate(corpus.config["licenses"]), LicensePolicy()
    if policy.unknown != "drop" or not set(policy.allow) <= set(default.allow):
        raise UserError(
            f"its corpus was built with the licence policy {policy.model_dump()}",
            f"a model to pass on is trained on {' and '.join(default.allow)} licences alone: build the corpus again",
        )


def began_with(bundle: Path, trained: Manifest) -> Path | None:
    """The bundle, if a training began with its model. Raises UserError if it began with one whose notices are elsewhere."""
    models = list(exported_before(trained.counts.get("models", {})))
    if not models:
        return None
    stood = Manifest.read(bundle).outputs.values() if (bundle / MANIFEST).exists() else ()
    if unknown := [model["name"] for model in models if model["sha256"] not in stood]:
        raise UserError(
            f"the training began with {unknown[0]}, whose notices are not in {bundle}", "pack it in the place of that model"
        )
    return bundle


def merged(evaluation: Path, as_served: Path) -> dict[str, Any]:
    """The scores of the model as it is served, above those of its checkpoint and of what stands beside it."""
    table, first = (json.loads((folder / SCORES).read_text(encoding="utf-8")) for folder in (evaluation, as_served))
    configs = [Manifest.read(folder).config for folder in (evaluation, as_served)]
    if configs[0] != configs[1] or table["held_out"] != first["held_out"]:
        raise UserError(f"{evaluation} and {as_served} are of other places", "evaluate both with the same settings")
    systems = [*first["systems"][:1], *table["systems"]]
    # where a run or a checkpoint lay is nobody's business
    return {**table, "systems": [{**system, "name": Path(system["name"]).name} for system in systems]}


def described(manifest: Manifest, counts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What a manifest tells of how its stage was made. counts: those to keep; None: all."""
    kept = manifest.model_dump(mode="json", exclude={"outputs", "schema_version", "key"})
    return kept | {"counts": {name: kept["counts"][name] for name in counts or kept["counts"]}, "id": manifest.fingerprint}


def manifest_of(description: Mapping[str, Any]) -> Manifest:
    """What `described` kept of a manifest."""
    return Manifest(key="", outputs={}, **{name: value for name, value in description.items() if name != "id"})


def thinned(log: str) -> str:
    """The rows of a metrics.jsonl that hold an evaluation, and some ROWS of the others, without their checksums."""
    rows = [json.loads(line) for line in log.splitlines()]
    every = -(-len(rows) // ROWS)
    kept = [row for number, row in enumerate(rows) if number % every == 0 or any(name.startswith("valid_") for name in row)]
    return "".join(json.dumps({name: value for name, value in row.items() if name != CHECKSUM}) + "\n" for row in kept)


def zip_texts(texts: Mapping[str, bytes], path: Path) -> None:
    """Licence texts in one file, whose bytes depend on them alone. texts: by their names, which hold their hashes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in sorted(texts.items()):
            entry = zipfile.ZipInfo(f"{TEXTS}{name}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)


def texts_of(path: Path) -> dict[str, bytes]:
    """What `zip_texts` was given."""
    with zipfile.ZipFile(path) as archive:
        return {name.removeprefix(TEXTS): archive.read(name) for name in archive.namelist()}


def dumped(value: Mapping[str, Any]) -> str:
    """Readable JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
