"""What llama.cpp computes from an exported file is what torch computes from the checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import torch

from codelm.corpus.tokens import open_shard
from codelm.models import load_model

WINDOWS = 16
LENGTH = 256


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def by_llama_cpp(path: Path, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Log probabilities of the next token, (windows, LENGTH, vocabulary)."""
    model = llama_cpp.Llama(
        str(path), n_ctx=LENGTH, n_batch=LENGTH, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
    )
    answers = []
    for window in windows:
        model.reset()
        model.eval(window.tolist())
        answers.append(log_softmax(model.scores[:LENGTH]))
    model.close()
    return np.stack(answers)


def test_next_tokens_agree(exported: Any, tokens_dir: Path, record_property: Callable[[str, object], None]) -> None:
    ids = np.array(open_shard(tokens_dir, "valid").ids[: WINDOWS * LENGTH], dtype=np.int64)
    windows = ids.reshape(WINDOWS, LENGTH)
    with torch.no_grad():
        expected = log_softmax(load_model(exported.checkpoint)(torch.from_numpy(windows)).logits.numpy())
    assert len(set(expected.argmax(-1).flatten().tolist())) > 15, "the model has learned to tell places apart"
    found = {}
    for format_ in ("f16", "q8_0", "q4_k_m"):
        path = exported.bundle / f"{exported.preset.name}-{format_}.gguf"
        logprobs = by_llama_cpp(path, windows)
        agreement = float((logprobs.argmax(-1) == expected.argmax(-1)).mean())
        # of the tokens that the text really has
        at = (np.arange(WINDOWS)[:, None], np.arange(LENGTH - 1)[None, :], windows[:, 1:])
        difference = float(np.abs(logprobs[at] - expected[at]).mean())
        found[format_] = (agreement, difference)
        size = path.stat().st_size
        report = f"{path.stem}: argmax {agreement:.2%}, mean |Δ logprob| {difference:.5f}, {size:,} bytes"
        print(report)
        record_property(f"parity {format_}", report)
    assert found["f16"][0] >= 0.99
    assert found["f16"][1] < 0.002
    assert found["q8_0"][0] >= 0.98
    assert found["q8_0"][1] < 0.02
    assert found["q4_k_m"][0] >= 0.90
    assert found["q4_k_m"][1] < 0.1
