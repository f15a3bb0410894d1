"""The export stage and the files it writes."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from codelm.errors import UserError
from codelm.export.bundle import BundleMetadata
from codelm.export.export import CARD, export
from codelm.export.gguf import interleave_rope_pairs
from codelm.export.quantize import FORMATS, quantize
from codelm.fim import SPECIAL_TOKENS, Order
from codelm.models import parameter_count, weights_sha256
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer

SCORES = {"bits_per_byte": 2.5, "exact_match": 0.1}


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {key: field.contents() for key, field in reader.fields.items()}


def test_what_a_file_says_of_itself(exported: Any, tokenizer_dir: Path, corpus: Path) -> None:
    tokenizer = Tokenizer(tokenizer_dir / FILE)
    model = exported.preset.model
    for format_ in ("f16", *FORMATS):
        found = fields(gguf.GGUFReader(exported.bundle / f"{exported.preset.name}-{format_}.gguf"))
        assert found["general.architecture"] == model.architecture
        for key, value in {
            "context_length": model.context_length,
            "embedding_length": model.width,
            "block_count": model.layers,
            "feed_forward_length": model.ffn,
            "attention.head_count": model.heads,
            "attention.head_count_kv": model.kv_heads,
            "attention.key_length": model.head_dim,
            "vocab_size": model.vocab_size,
        }.items():
            assert found[f"{model.architecture}.{key}"] == value
        assert found["tokenizer.ggml.model"] == "gpt2"
        assert found["tokenizer.ggml.pre"] == "qwen2"
        assert found["tokenizer.ggml.tokens"] == tokenizer.vocabulary()[0]
        assert found["tokenizer.ggml.merges"] == tokenizer.vocabulary()[1]
        types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
        assert {token for token, kind in types.items() if kind == gguf.TokenType.CONTROL} == set(SPECIAL_TOKENS)
        ids = {"fim_pre": "<|fim_prefix|>", "fim_suf": "<|fim_suffix|>", "fim_mid": "<|fim_middle|>", "eos": "<|endoftext|>"}
        ids |= {"fim_pad": "<|fim_pad|>", "fim_rep": "<|repo_name|>", "fim_sep": "<|file_sep|>"}
        for key, token in ids.items():
            assert found["tokenizer.ggml.tokens"][found[f"tokenizer.ggml.{key}_token_id"]] == token
        assert found["tokenizer.ggml.add_bos_token"] is False
        metadata = BundleMetadata.from_gguf({key: value for key, value in found.items() if isinstance(value, str)})
        assert metadata.name == exported.preset.name
        assert metadata.context_length == model.context_length
        assert metadata.fim_order is Order.SPM
        assert metadata.tokenizer_sha256 == tokenizer.sha256
        assert metadata.weights_sha256 == weights_sha256(exported.checkpoint)
        assert metadata.corpus_fingerprint == Manifest.read(corpus).fingerprint_of("snapshot/")
        assert metadata.trained_tokens > 0
        assert metadata.repo_context is False
        assert metadata.bits_per_byte


def test_the_formats_of_the_tensors(exported: Any) -> None:
    sizes = Manifest.read(exported.bundle).counts
    assert sizes == {path.name: path.stat().st_size for path in exported.bundle.glob("*.gguf")}
    kinds = {}
    for format_ in ("f16", *FORMATS):
        tensors = gguf.GGUFReader(exported.bundle / f"{exported.preset.name}-{format_}.gguf").tensors
        assert sum(int(np.prod(tensor.shape)) for tensor in tensors) == parameter_count(exported.preset.model)
        kinds[format_] = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
        assert {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) == 1} == {"F32"}
    # no fallback such as Q5_0 or Q8_0 for rows that are no multiple of 256
    assert kinds == {"f16": {"F16"}, "q8_0": {"Q8_0"}, "q4_k_m": {"Q4_K", "Q6_K"}}
    f16, q8, q4 = (sizes[f"{exported.preset.name}-{format_}.gguf"] for format_ in ("f16", "q8_0", "q4_k_m"))
    assert q4 < q8 < f16 < 2.1 * parameter_count(exported.preset.model) + 100_000


def test_the_card(exported: Any) -> None:
    card = (exported.bundle / CARD).read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert f"{parameter_count(exported.preset.model):,} parameters" in card
    assert f"codelm serve {exported.preset.name}-q8_0.gguf" in card
    assert "None" not in card


def test_rows_of_a_head_are_interleaved() -> None:
    weight = np.arange(2 * 4, dtype=np.float32)[:, None]  # two heads of four rows
    assert interleave_rope_pairs(weight, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_unchanged_it_is_not_made_again(llama: Any, corpus: Path, tokenizer_dir: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    arguments = (llama.preset, llama.checkpoint, corpus, tokenizer_dir, Manifest.read(trained))
    first = export(folder, *arguments, SCORES)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert export(folder, *arguments, SCORES) == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    assert export(folder, *arguments, SCORES | {"exact_match": 0.2}).key != first.key


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "no checkpoint"])
def test_a_damaged_checkpoint_leaves_the_export_that_stood(
    llama: Any, corpus: Path, tokenizer_dir: Path, trained: Path, tmp_path: Path, damage: str
) -> None:
    folder, checkpoint = tmp_path / "export", tmp_path / "checkpoint"
    manifest = Manifest.read(trained)
    shutil.copytree(llama.bundle, folder)
    shutil.copytree(llama.checkpoint, checkpoint)
    weights = checkpoint / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "no checkpoint":
        checkpoint = tmp_path / "nowhere"
    else:
        weights.write_bytes(weights.read_bytes()[: 0 if damage == "empty" else weights.stat().st_size // 2])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=str(checkpoint)):
        export(folder, llama.preset, checkpoint, corpus, tokenizer_dir, manifest, SCORES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from codelm.config.preset import load_preset
from codelm.errors import UserError
from codelm.export.export import export
from codelm.stage import Manifest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
folder, preset, checkpoint, corpus, tokenizer, trained = map(Path, sys.argv[2:])
scores = {"bits_per_byte": 1, "exact_match": 1}
try:
    export(folder, load_preset(str(preset)), checkpoint, corpus, tokenizer, Manifest.read(trained), scores)
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [10_000, 1_000_000], ids=["of the head", "of the tensors"])
def test_a_full_disk_leaves_the_export_that_stood(
    llama: Any, corpus: Path, tokenizer_dir: Path, trained: Path, tmp_path: Path, limit: int
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(llama.bundle, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = [limit, folder, trained / "preset.yaml", llama.checkpoint, corpus, tokenizer_dir, trained]
    process = subprocess.run([sys.executable, "-c", DISK_FULL, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert process.stdout.startswith(f"{folder}: ")
    assert "while writing; free some space" in process.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_file_that_cannot_be_quantised(tmp_path: Path) -> None:
    source = tmp_path / "half.gguf"
    source.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="could not quantise"):
        quantize(source, tmp_path / "out.gguf", "q8_0")
