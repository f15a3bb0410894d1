"""What llama.cpp computes with an adapter laid over a base is what torch computes from the merged weights."""

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import peft
import pytest
import torch

from codelm.corpus.tokens import open_shard
from codelm.export.adapter import write_adapter
from codelm.models import load_model

LENGTH = 128
R, ALPHA = 8, 20.0


@pytest.fixture
def adapted(exported: Any) -> Any:
    """The model with a random adapter on every linear layer, strong enough to change what it says."""
    model = load_model(exported.checkpoint)
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    random = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            # attention hardly looks at a weak update of queries and keys, whose rows are the ones to get wrong
            parameter.data.normal_(std=0.08 if ".q_proj." in name or ".k_proj." in name else 0.02, generator=random)
    return adapted


def logprobs(path: Path, ids: list[int], adapter: Path | None) -> torch.Tensor:
    model = llama_cpp.Llama(
        str(path),
        lora_path=str(adapter) if adapter else None,
        n_ctx=LENGTH,
        n_batch=LENGTH,
        logits_all=True,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    model.eval(ids)
    scores = torch.from_numpy(np.array(model.scores[:LENGTH]))
    model.close()
    return scores.log_softmax(-1)


def test_next_tokens_agree(exported: Any, adapted: Any, tokens_dir: Path, tmp_path: Path) -> None:
    ids = np.array(open_shard(tokens_dir, "valid").ids[:LENGTH], dtype=np.int64).tolist()
    tensors = {
        f"base_model.model.{name.removeprefix('base_model.model.')}": tensor.numpy()
        for name, tensor in peft.get_peft_model_state_dict(adapted).items()
    }
    write_adapter(tmp_path / "adapter.gguf", exported.preset.model, tensors, ALPHA, exported.preset.name, "f" * 64)
    with torch.no_grad():
        expected = adapted.merge_and_unload()(torch.tensor([ids])).logits[0].log_softmax(-1)
    base = exported.bundle / f"{exported.preset.name}-f16.gguf"
    found, without = logprobs(base, ids, tmp_path / "adapter.gguf"), logprobs(base, ids, None)
    # the base is float16: what is left is rounding
    assert (found - expected).abs().mean() < 0.002
    assert (without - expected).abs().mean() > 0.05
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.98


def test_what_is_no_adapter_is_refused(exported: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no factor of a LoRA update"):
        write_adapter(tmp_path / "a.gguf", exported.preset.model, {"model.norm.weight": np.ones(3, np.float32)}, 1.0, "x", "")
    stranger = {"base_model.model.model.layers.0.mlp.squeeze.lora_A.weight": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match=r"has no tensor model\.layers\.0\.mlp\.squeeze\.weight"):
        write_adapter(tmp_path / "a.gguf", exported.preset.model, stranger, 1.0, "x", "")
