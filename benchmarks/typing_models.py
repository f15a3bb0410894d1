"""Models of random weights to time servers with: a preset's shape, a vocabulary of the standard library, a real GGUF.

What such a model writes is noise, but it costs what a trained one costs. Lines must end, though, after about as many tokens
as in code. Fresh weights repeat one token for ever, since their attention sees the mean of all it looks at, so it is made to
look at single tokens, and to count; and the embeddings of the tokens with a line break are scaled until one in LINE_TOKENS of
what is written is one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from codelm.config.corpus import CorpusConfig
from codelm.config.preset import load_preset
from codelm.corpus.build import build
from codelm.corpus.read import fingerprint
from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.export.gguf import FloatArray, write_f16
from codelm.export.quantize import FTYPES, quantize
from codelm.fim import Order
from codelm.models import build_model, served
from codelm.tokenizer import FILE, Tokenizer, train

LINE_TOKENS = 12
SCORE_SCALE, OUTPUT_SCALE = 4.0, 50.0
"""What the standard deviation of the attention's scores is brought to, and by how much its output is scaled."""
DIRECTIONS = 1_024
"""Random hidden states, to count what a model of random weights writes."""


def model_file(name: str, folder: Path, context: int) -> Path:
    """A GGUF by its path, or by a preset and a format, such as 70m-q4_0, which is made in the folder if it is not there.

    context: tokens to serve, if the preset has as many. Raises UserError if there is no such preset or format.
    """
    if name.endswith(".gguf"):
        return Path(name)
    preset_name, _, format_ = name.rpartition("-")
    if format_ not in FTYPES:
        raise UserError(f"{name} names no format", f"give PRESET-FORMAT, a format of {', '.join(FTYPES)}, or a .gguf file")
    preset = load_preset(preset_name)
    model = served(preset.model, min(context, preset.model.context_length))
    f16 = folder / f"{preset_name}-{model.context_length}-f16.gguf"
    target = f16.with_name(f16.name.replace("f16", format_))
    if target.exists():
        return target
    if not f16.exists():
        build(folder / "corpus", CorpusConfig())
        vocabulary = folder / f"tokenizer-{preset.tokenizer.vocab_size}"
        train(vocabulary, preset.tokenizer, folder / "corpus")
        tokenizer = Tokenizer(vocabulary / FILE)
        weights = build_model(model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad).state_dict()
        tensors = lively({key: value.numpy() for key, value in weights.items()}, tokenizer)
        metadata = BundleMetadata(
            name=f"{preset_name}-random",
            codelm_version="0",
            context_length=model.context_length,
            fim_order=Order.SPM,
            tokenizer_sha256=tokenizer.sha256,
            corpus_fingerprint=fingerprint(folder / "corpus"),
        )
        unfinished = f16.with_suffix(".part")
        write_f16(unfinished, model, tokenizer, tensors, metadata)
        unfinished.replace(f16)
    unfinished = target.with_suffix(".part")
    quantize(f16, unfinished, format_)
    return unfinished.replace(target)


def lively(tensors: Mapping[str, FloatArray], tokenizer: Tokenizer) -> dict[str, FloatArray]:
    """Fresh weights changed so that they write lines of different tokens."""
    breaks = np.array([b"\n" in text for text in tokenizer.token_bytes])
    embedding = tensors["model.embed_tokens.weight"]
    rows = np.where(breaks[:, None], line_end_scale(embedding, breaks), 1.0)
    changed = dict(tensors) | {"model.embed_tokens.weight": (rows * embedding).astype(np.float32)}
    for key, weight in tensors.items():
        if key.endswith(".o_proj.weight"):
            changed[key] = OUTPUT_SCALE * weight
        elif key.endswith(".q_norm.weight"):
            changed[key] = SCORE_SCALE * weight
        elif key.endswith(".q_proj.weight") and key.replace("q_proj", "q_norm") not in tensors:
            scores = weight.std() * tensors[key.replace("q_proj", "k_proj")].std() * weight.shape[1]
            changed[key] = SCORE_SCALE / scores * weight
    return changed


def line_end_scale(embedding: FloatArray, breaks: npt.NDArray[np.bool_]) -> float:
    """By how much to scale the rows of an embedding, (vocabulary, width), that end lines, (vocabulary,)."""
    states = np.random.Generator(np.random.Philox(key=[0, 0])).standard_normal((embedding.shape[1], DIRECTIONS))
    ends = (embedding[breaks] @ states).max(0)
    others = (embedding[~breaks] @ states).max(0)
    # a line ends where others < scale · ends
    return float(np.quantile(others / ends, 1 / LINE_TOKENS))


def context_of(path: Path) -> int:
    """Tokens that a GGUF is served with."""
    return int(field(gguf.GGUFReader(path), "{}.context_length"))


def kv_bytes_per_token(path: Path) -> int:
    """Bytes of a KV cache in float16 that a token takes."""
    reader = gguf.GGUFReader(path)
    layers, heads, key, value = (
        int(field(reader, name))
        for name in ("{}.block_count", "{}.attention.head_count_kv", "{}.attention.key_length", "{}.attention.value_length")
    )
    return 2 * layers * heads * (key + value)


def field(reader: Any, name: str) -> Any:
    """A value of a GGUF's metadata; {} in its name stands for the architecture."""
    architecture = reader.fields["general.architecture"].contents()
    return reader.fields[name.format(architecture)].contents()
