"""A GGUF of an export → the checkpoint in Hugging Face layout that a training can begin with, its tokenizer and its preset.

The way back of `codelm.export.gguf`, by the same tables. Weights are what the file's format has left of them; the tokenizer is
the very one, by the SHA-256 that the file has of it, or the file is refused.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import yaml
from safetensors.numpy import save_file

from codelm.config.load import checked
from codelm.config.model import ModelConfig
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.export.bundle import PRESET, BundleMetadata
from codelm.export.gguf import ARCHITECTURES, SHAPE, FloatArray, in_transformers_order, reading, tensor_name
from codelm.models import transformers_config, weight_shapes
from codelm.stage import Stage, digest, file_sha256
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import GGUF_PRE, rebuilt, split_of

SOURCE = "gguf"
"""The manifest's name for the SHA-256 of the file."""


def restore(folder: Path, path: Path) -> Path:
    """Reads a GGUF back into `folder/<name>-<hash>`: model.safetensors in float32, config.json, tokenizer.json, preset.yaml.

    What was read back before is not read again. The preset is the one that lies beside the file, or else nano's, with the
    file's own shape. Raises UserError if the file is damaged or none that `codelm export` wrote, or if the disk is full.
    """
    with reading(path) as reader:
        values = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    try:
        metadata, model = BundleMetadata.from_gguf(values), model_of(path, values)
        tokenizer = tokenizer_of(path, values, metadata.tokenizer_sha256)
        settings = transformers_config(model, values["tokenizer.ggml.eos_token_id"], values["tokenizer.ggml.padding_token_id"])
    except KeyError as error:
        raise not_ours(path, f"it lacks {error}") from error
    except ValueError as error:
        raise not_ours(path, str(error)) from error
    config = {PRESET: preset_of(path, model, metadata.name, split_of(tokenizer)).model_dump(mode="json")}
    sha256 = file_sha256(path)
    target = folder / f"{path.stem}-{digest([sha256, config])[:8]}"
    stage = Stage(target, config, {SOURCE: sha256}, libraries=("gguf", "tokenizers", "transformers"))
    if stage.done():
        return target
    weights = weights_of(path, model, tensors, weight_shapes(settings))
    with stage.build() as temporary:
        settings.save_pretrained(temporary)
        save_file(weights, temporary / "model.safetensors", {"format": "pt"})
        (temporary / TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
        (temporary / PRESET).write_text(yaml.safe_dump(config[PRESET], sort_keys=False), encoding="utf-8")
        stage.counts = {
            "name": path.name,
            "trained_tokens": metadata.trained_tokens,
            "corpus_fingerprint": metadata.corpus_fingerprint,
            "weights_sha256": metadata.weights_sha256,
        }
    return target


def not_ours(path: Path, reason: str) -> UserError:
    """What to say of a GGUF that cannot be read back."""
    return UserError(f"{path} is no model that `codelm export` wrote ({reason})", "give one that is, or a checkpoint")


def model_of(path: Path, values: Mapping[str, Any]) -> ModelConfig:
    """The shape that a file tells of. Raises KeyError or ValueError if it tells none of codelm's."""
    architecture = values["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"its architecture is {architecture}")

    def value(key: str) -> Any:
        return values[key.format(arch=architecture)]

    shape: dict[str, Any] = {name: value(key) for key, name in SHAPE.items()}
    shape |= {
        "architecture": architecture,
        "rope_theta": shortest(value(gguf.Keys.Rope.FREQ_BASE)),
        "norm_eps": shortest(value(gguf.Keys.Attention.LAYERNORM_RMS_EPS)),
    }
    if gguf.Keys.Rope.SCALING_TYPE.format(arch=architecture) in values:
        original, factor = value(gguf.Keys.Rope.SCALING_ORIG_CTX_LEN), value(gguf.Keys.Rope.SCALING_FACTOR)
        needed = shape["context_length"] / original  # which the factor mostly is, and must not fall short of
        shape["rope_scaling"] = {
            "method": value(gguf.Keys.Rope.SCALING_TYPE),
            "factor": needed if np.float32(needed) == np.float32(factor) else shortest(factor),
            "original_context": original,
        }
    return checked(shape, ModelConfig, str(path))


def shortest(value: float) -> float:
    """The number that was written as a float32: 1e-6, where 9.999999974752427e-07 is read."""
    return float(str(np.float32(value)))


def tokenizer_of(path: Path, values: Mapping[str, Any], sha256: str) -> str:
    """The tokenizer.json that the model was trained with, by its SHA-256. Raises UserError if it cannot be had."""
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges, pre = values["tokenizer.ggml.merges"], values["tokenizer.ggml.pre"]
    learned = [token for token, type_ in zip(tokens, types, strict=True) if type_ == gguf.TokenType.NORMAL]
    split = next((split for split, name in GGUF_PRE.items() if name == pre), None)
    if split is None:
        raise not_ours(path, f"its pre-tokenisation is {pre}")
    try:
        text = rebuilt(learned, tokens[len(learned) :], merges, split)
    except Exception as error:  # the library raises bare Exception for merges without their tokens
        raise not_ours(path, f"its tokenizer: {error}") from error
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise UserError(
            f"{path}: its tokens and merges do not give the tokenizer.json that it was trained with",
            "give a checkpoint in the folder of its training",
        )
    return text


def weights_of(
    path: Path, model: ModelConfig, tensors: Mapping[str, Any], shapes: Mapping[str, list[int]]
) -> dict[str, FloatArray]:
    """Hugging Face name → float32 array. Raises UserError if a tensor is missing, too many, or of another shape."""
    names = {name: tensor_name(model, name) for name in shapes}
    if differing := sorted(set(names.values()) ^ set(tensors)):
        raise not_ours(path, f"it differs from a {model.architecture} of its shape in {differing[0]}")
    weights = {}
    for name, shape in shapes.items():
        tensor = tensors[names[name]]
        try:
            rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{path} holds {tensor.tensor_type.name}, which cannot be read back", "give the F16 or Q8_0 file"
            ) from error
        if list(rows.shape) != shape:
            raise not_ours(path, f"{tensor.name} is {list(rows.shape)}, not {shape}")
        weights[name] = np.ascontiguousarray(in_transformers_order(model, name, rows))
    return weights


def preset_of(path: Path, model: ModelConfig, name: str, split: str) -> Preset:
    """The preset beside the file, or nano's settings of training, with the model of the file.

    name: of the model. split: of its tokenizer. Raises UserError if what lies beside the file is no preset.
    """
    beside = path.parent / PRESET
    there = beside.is_file()
    preset = load_preset(str(beside) if there else "nano")
    changes: dict[str, Any] = {
        "name": name,
        "description": preset.description if there else f"Trained further from {path.name}",
        "model": model.model_dump(),
        "tokenizer": {"vocab_size": model.vocab_size, "split": split},
    }
    return preset.with_changes(changes, str(path))
