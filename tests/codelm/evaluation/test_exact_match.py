"""Single-line exact match."""

from pathlib import Path

import pytest
import torch

from codelm import fim
from codelm.config.preset import Preset
from codelm.corpus.read import read_rows
from codelm.evaluation.exact_match import NEW_TOKENS, SHORTEST_REST, draw_places, exact_match, prompt_of
from codelm.models import build_model
from codelm.tokenizer import FILE, Tokenizer

LINE = "    value = compute(value, step=2)\n"
FILES = [f"def f{number}(value):\n{LINE * 2}" for number in range(2)]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture(scope="module")
def texts(corpus: Path) -> list[str]:
    return [row["content"] for row in read_rows(corpus, "valid")]


def test_places_are_verbatim_and_a_function_of_the_seed(texts: list[str]) -> None:
    places = draw_places(texts, 200, seed=1)
    assert len(places) == 200
    assert draw_places(texts, 200, seed=1) == places
    assert draw_places(texts, 200, seed=2) != places
    for prefix, rest, suffix in places:
        assert prefix + rest + suffix in texts
        assert "\n" not in rest
        assert len(rest) >= SHORTEST_REST
        assert rest == rest.rstrip()
        assert suffix == "" or suffix.split("\n")[0].strip() == "", "only white space follows on the line"
        line = prefix.split("\n")[-1]
        assert line.strip() or not rest[0].isspace(), "the cursor is behind the indentation"


def test_there_are_no_more_places_than_lines() -> None:
    assert draw_places(["a = b\n}\n", "\n\n"], 10, 0)[0].rest in {"a = b", " = b", "= b"}
    assert len(draw_places(["a = b\n}\n", "\n\n"], 10, 0)) == 1
    assert draw_places([], 10, 0) == draw_places(["x\ny\n"], 10, 0) == []


def test_a_prompt_fits_and_is_that_of_serving(tokenizer: Tokenizer, texts: list[str]) -> None:
    for place in draw_places(texts, 50, seed=0):
        ids = prompt_of(place, tokenizer, 256)
        assert len(ids) + NEW_TOKENS <= 256
        assert ids[:2] == [tokenizer.fim.fim_prefix, tokenizer.fim.fim_suffix]
        middle = ids.index(tokenizer.fim.fim_middle)
        assert place.suffix.encode().startswith(tokenizer.decode(ids[2:middle]))
        assert place.prefix.encode().endswith(tokenizer.decode(ids[middle + 1 :]))


def test_who_has_learned_a_text_by_heart_finishes_its_lines(tiny_preset: Preset, tokenizer: Tokenizer) -> None:
    model = build_model(tiny_preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad)
    places = draw_places(FILES, 6, seed=0)
    assert exact_match(model, tokenizer, places) == 0
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
    assert exact_match(model, tokenizer, places) == 1
