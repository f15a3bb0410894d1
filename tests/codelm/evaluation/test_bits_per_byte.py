"""Bits per byte."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from codelm.config.preset import Preset
from codelm.corpus.tokens import TokenShard, open_shard
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.models import build_model, load_model
from codelm.tokenizer import FILE, Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture(scope="module")
def shard(tokens_dir: Path) -> TokenShard:
    return open_shard(tokens_dir, "valid")


def test_a_model_that_knows_nothing_pays_for_every_token_alike(
    tiny_preset: Preset, tokenizer: Tokenizer, tokens_dir: Path
) -> None:
    model = build_model(tiny_preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad)
    torch.nn.init.zeros_(model.lm_head.weight)
    length = tiny_preset.model.context_length
    ids = open_shard(tokens_dir, "valid").ids[: 3 * length]  # one document, which fills three windows
    shard = TokenShard(ids, np.array([0, len(ids)]), 0)
    counted = np.array(ids).reshape(3, length)[:, 1:].flatten().tolist()
    expected = math.log2(tiny_preset.model.vocab_size) * len(counted) / len(tokenizer.decode(counted))
    assert bits_per_byte(model, shard, tokenizer, 10**6) == pytest.approx(expected, rel=1e-5)


def test_ends_of_text_are_not_counted(tiny_preset: Preset, tokenizer: Tokenizer) -> None:
    model = build_model(tiny_preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad)
    torch.nn.init.zeros_(model.lm_head.weight)
    filling = tiny_preset.model.context_length - 2
    ids = np.array(tokenizer.encode("x") * filling, dtype=np.uint16)
    offsets = np.array([0, filling, filling])  # an empty document behind it: the window ends with two ends of text
    assert bits_per_byte(model, TokenShard(ids, offsets, 0), tokenizer, 10**6) == pytest.approx(10, rel=1e-5)


def test_training_lowers_it_and_a_part_is_like_the_whole(
    checkpoint: Path, tiny_preset: Preset, tokenizer: Tokenizer, shard: TokenShard
) -> None:
    trained = load_model(checkpoint)
    untrained = build_model(tiny_preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad)
    whole = bits_per_byte(trained, shard, tokenizer, 16_384)
    assert whole < bits_per_byte(untrained, shard, tokenizer, 2_048) - 0.5
    assert bits_per_byte(trained, shard, tokenizer, 8_192) == pytest.approx(whole, rel=0.1)
    assert bits_per_byte(trained, shard, tokenizer, 16_384) == whole


def test_the_mode_of_the_model_stays(checkpoint: Path, tokenizer: Tokenizer, shard: TokenShard) -> None:
    model = load_model(checkpoint)
    for training in (True, False):
        model.train(training)
        bits_per_byte(model, shard, tokenizer, 256)
        assert model.training is training


def test_a_split_shorter_than_a_window(checkpoint: Path, tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode("def f(x):\n    return x\n"), dtype=np.uint16)
    bits = bits_per_byte(load_model(checkpoint), TokenShard(ids, np.array([0, len(ids)]), 23), tokenizer, 1_000)
    assert 0 < bits < 16
