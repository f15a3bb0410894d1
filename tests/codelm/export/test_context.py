"""Contexts beyond the trained one: what llama.cpp computes there is what torch computes."""

from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
import torch

from codelm.config.model import ModelConfig
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.export.export import CARD, export
from codelm.export.gguf import write_f16
from codelm.fim import Order
from codelm.models import build_model, served, serving_notes
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer

TRAINED, CONTEXT = 128, 512
SCALINGS = {
    "linear": {"method": "linear", "factor": 4, "original_context": TRAINED},
    "ntk": {"method": "ntk", "factor": 4, "original_context": TRAINED},
    "yarn": {"method": "yarn", "factor": 4, "original_context": TRAINED},
}


def shape(preset: Preset, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(preset.model.model_dump() | changes)


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def model_that_minds_positions(model: ModelConfig) -> Any:
    """Fresh weights, with queries and keys so large that attention is sharp."""
    built = build_model(model, 0, 1).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4 if name.endswith(("q_proj.weight", "k_proj.weight")) else 2)
    return built


def by_llama_cpp(path: Path, model: ModelConfig, weights: Any, tokenizer: Tokenizer, ids: list[int]) -> npt.NDArray[np.float64]:
    """Log probabilities of the next token, (len(ids), vocabulary), with only the metadata of the file to go by."""
    metadata = BundleMetadata(
        name="context", codelm_version="0", context_length=model.context_length, fim_order=Order.SPM,
        tokenizer_sha256="", corpus_fingerprint="",
    )  # fmt: skip
    write_f16(path, model, tokenizer, {name: tensor.numpy() for name, tensor in weights.items()}, metadata)
    loaded = llama_cpp.Llama(
        str(path), n_ctx=len(ids), n_batch=len(ids), logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
    )
    loaded.eval(ids)
    logprobs = log_softmax(loaded.scores[: len(ids)])
    loaded.close()
    return logprobs


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("method", SCALINGS)
def test_scaled_positions_agree(
    tiny_preset: Preset, tokenizer_dir: Path, tmp_path: Path, method: str, architecture: str
) -> None:
    model = shape(tiny_preset, architecture=architecture, context_length=CONTEXT, rope_scaling=SCALINGS[method])
    plain = shape(tiny_preset, architecture=architecture, context_length=CONTEXT)
    built = model_that_minds_positions(model)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, CONTEXT)
    with torch.no_grad():
        expected = log_softmax(built(torch.from_numpy(ids)[None]).logits[0].numpy())
    tokenizer, at = Tokenizer(tokenizer_dir / FILE), (np.arange(CONTEXT - 1), ids[1:])
    differences = {}
    for name, written in {"scaled": model, "not scaled": plain}.items():
        found = by_llama_cpp(tmp_path / "model.gguf", written, built.state_dict(), tokenizer, ids.tolist())
        agreement = float((found.argmax(-1) == expected.argmax(-1)).mean())
        differences[name] = (agreement, float(np.abs(found[at] - expected[at])[TRAINED:].mean()))
    print(method, architecture, differences)
    assert differences["scaled"][0] >= 0.99
    assert differences["scaled"][1] < 0.002
    assert differences["not scaled"][1] > 0.02, "a file without the keys is not taken for the same"


def test_more_context_than_was_trained_is_served_by_yarn(
    llama: Any, corpus: Path, tokenizer_dir: Path, trained: Path, tmp_path: Path
) -> None:
    scores = {"bits_per_byte": 2.5, "exact_match": 0.1}
    arguments = (llama.preset, llama.checkpoint, corpus, tokenizer_dir, Manifest.read(trained), scores)
    export(tmp_path / "export", *arguments, context=2048)
    path = tmp_path / "export" / f"{llama.preset.name}-q8_0.gguf"
    found = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    assert found["llama.context_length"] == 2048
    assert found["codelm.context_length"] == "2048"
    assert found["llama.rope.scaling.type"] == "yarn"
    assert found["llama.rope.scaling.factor"] == 4
    assert found["llama.rope.scaling.original_context_length"] == 512
    assert "context 2,048 tokens, 512 × 4 by yarn RoPE scaling" in (tmp_path / "export" / CARD).read_text(encoding="utf-8")
    assert export(tmp_path / "export", *arguments).config["model"]["rope_scaling"] is None


def test_what_is_served_of_a_model(tiny_preset: Preset) -> None:
    plain = shape(tiny_preset, context_length=CONTEXT)
    assert served(plain) == plain
    assert served(plain, 256) == shape(tiny_preset, context_length=256)
    longer = served(plain, 2048)
    assert longer.rope_scaling
    assert (longer.rope_scaling.method, longer.rope_scaling.factor, longer.rope_scaling.original_context) == ("yarn", 4, 512)
    # YaRN on top of YaRN is a larger factor over the same beginning; on top of NTK it has NTK's base
    yarn = served(shape(tiny_preset, context_length=CONTEXT, rope_scaling=SCALINGS["yarn"]), 1024)
    assert yarn.rope_scaling
    assert (yarn.rope_scaling.factor, yarn.rope_scaling.original_context) == (8, TRAINED)
    ntk = shape(tiny_preset, context_length=CONTEXT, rope_scaling=SCALINGS["ntk"])
    assert served(ntk, 1024).rope_theta == ntk.rope_base == pytest.approx(10_000 * 4 ** (64 / 62))
    with pytest.raises(UserError, match=r"linear rope_scaling cannot serve 1024 tokens by YaRN; train it further with --init"):
        served(shape(tiny_preset, context_length=CONTEXT, rope_scaling=SCALINGS["linear"]), 1024)


def test_a_sliding_window_is_served_as_the_context(tiny_preset: Preset) -> None:
    window = shape(tiny_preset, context_length=CONTEXT, sliding_window=128)
    assert served(window) == shape(tiny_preset, context_length=128)
    assert served(shape(tiny_preset, context_length=CONTEXT, sliding_window=1024)) == shape(tiny_preset, context_length=CONTEXT)
    notes = serving_notes(window)
    assert "128 tokens of served context take a KV cache of 0.1 MB" in notes[0]  # 2 layers × 2 heads × 64, keys and values, f16
    assert "no sliding window for llama: the export serves the 128 tokens of the window, of a context of 512" in notes[1]
    with pytest.raises(UserError, match="sliding window of 128 tokens cannot serve 256"):
        served(window, 256)


def test_notes(tiny_preset: Preset) -> None:
    model = shape(tiny_preset, context_length=CONTEXT)
    assert serving_notes(model) == ["512 tokens of served context take a KV cache of 0.5 MB"]
    assert "trained on 512 tokens; YaRN reaches 2,048 without training" in serving_notes(model, 2048)[1]
