"""Exact match of single lines, and the light evaluation of a checkpoint."""

from pathlib import Path

import pytest
import torch

from codelm import fim
from codelm.config.preset import Preset
from codelm.corpus.tokens import TokenShard, open_shard
from codelm.evaluation.exact_match import light_evaluation, texts_of
from codelm.evaluation.places import draw_places
from codelm.models import build_model, load_model
from codelm.tokenizer import FILE, Tokenizer

LINE = "    value = compute(value, step=2)\n"
FILES = [f"def f{number}(value):\n{LINE * 2}" for number in range(2)]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


def test_who_has_learned_a_text_by_heart_finishes_its_lines(tiny_preset: Preset, tokenizer: Tokenizer) -> None:
    model = build_model(tiny_preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad)
    places = [*draw_places(FILES, 5, seed=0), *draw_places(FILES, 5, seed=0, whole_line=True)]
    assert light_evaluation(model, tokenizer, FILES, places=10)["exact_match"] == 0
    parts = [[tokenizer.encode(text) for text in place] for place in places]
    examples = [
        fim.example(tokenizer.fim, fim.Order.SPM, prefix, rest + tokenizer.encode("\n"), suffix)
        for prefix, rest, suffix in parts
    ]
    longest = max(map(len, examples))
    ids = torch.tensor([example + [tokenizer.fim.fim_pad] * (longest - len(example)) for example in examples])
    labels = ids.masked_fill(ids == tokenizer.fim.fim_pad, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(80):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    light = light_evaluation(model, tokenizer, FILES, places=10)
    assert light == {"exact_match": 1, "whole_line_match": 1, "end_of_line_match": 1, "edit_similarity": 1, "places": 10}


def test_the_light_evaluation_is_a_function_of_its_seed(checkpoint: Path, tokenizer: Tokenizer, tokens_dir: Path) -> None:
    model, shard = load_model(checkpoint), open_shard(tokens_dir, "valid")
    first = light_evaluation(model, tokenizer, shard, places=12)
    assert first == light_evaluation(model, tokenizer, texts_of(shard, tokenizer), places=12)
    assert 0 < first["edit_similarity"] < 1
    assert first["edit_similarity"] != light_evaluation(model, tokenizer, shard, places=12, seed=1)["edit_similarity"]


def test_texts_without_a_line_have_no_score(checkpoint: Path, tokenizer: Tokenizer) -> None:
    light = light_evaluation(load_model(checkpoint), tokenizer, ["}\n"])
    assert light["places"] == 0
    assert light["exact_match"] is light["edit_similarity"] is None


def test_documents_come_back_out_of_a_shard(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text) for text in FILES]
    shard = TokenShard(torch.tensor(ids[0] + ids[1]).numpy(), torch.tensor([0, len(ids[0]), len(ids[0] + ids[1])]).numpy(), 0)
    assert texts_of(shard, tokenizer) == FILES
