"""Lines written in batches, against the library's own generation, one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from codelm.corpus.read import read_rows
from codelm.evaluation import generate
from codelm.evaluation.generate import NEW_TOKENS, prompt_of, write_lines
from codelm.evaluation.places import Place, draw_places
from codelm.models import load_model
from codelm.tokenizer import FILE, Tokenizer
from training.attention import registered


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture(scope="module")
def places(corpus: Path) -> list[Place]:
    texts = [row["content"] for row in read_rows(corpus, "valid")]
    first_lines = [Place("", "import os", "\n"), Place("import os\n", "import sys", "\n\n\ndef f():\n    pass\n")]
    return [*draw_places(texts, 8, 0), *draw_places(texts, 8, 0, whole_line=True), *first_lines]


def test_a_prompt_fits_and_is_that_of_serving(tokenizer: Tokenizer, places: list[Place]) -> None:
    for place in places:
        ids = prompt_of(place, tokenizer, 256)
        assert len(ids) + NEW_TOKENS <= 256
        assert ids[:2] == [tokenizer.fim.fim_prefix, tokenizer.fim.fim_suffix]
        middle = ids.index(tokenizer.fim.fim_middle)
        assert place.suffix.encode().startswith(tokenizer.decode(ids[2:middle]))
        assert place.prefix.encode().endswith(tokenizer.decode(ids[middle + 1 :]))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tokenizer: Tokenizer, places: list[Place]) -> list[str]:
    return [by_the_library(load_model(checkpoint), tokenizer, place) for place in places]


def by_the_library(model: Any, tokenizer: Tokenizer, place: Place) -> str:
    """The line that the library's own greedy generation writes, held to spell again what was taken back."""
    healer, every = tokenizer.healer, list(range(tokenizer.vocab_size))
    kept, typed = healer.back_up(prompt_of(place, tokenizer, model.config.max_position_embeddings))
    ids = torch.tensor([kept])

    def allowed(_: int, written: torch.Tensor) -> list[int]:
        remaining = typed
        for token in written[len(kept) :].tolist():
            remaining = healer.consume(remaining, token) if remaining else b""
        return healer.allowed(remaining).tolist() if remaining else every

    answer = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
        pad_token_id=tokenizer.fim.fim_pad, prefix_allowed_tokens_fn=allowed,
    )  # fmt: skip
    text = tokenizer.decode(answer[0, len(kept) :].tolist())
    assert typed.startswith(text) or text.startswith(typed)
    return text[len(typed) :].decode(errors="replace").split("\n")[0]


def test_some_places_cut_a_token(tokenizer: Tokenizer, places: list[Place]) -> None:
    taken = [tokenizer.healer.back_up(prompt_of(place, tokenizer, 256))[1] for place in places]
    assert 0 < sum(map(bool, taken)) < len(places)


@pytest.mark.parametrize("batch_tokens", [1, 2_000, generate.BATCH_TOKENS])
def test_a_batch_writes_what_each_of_its_rows_would_alone(
    checkpoint: Path,
    tokenizer: Tokenizer,
    places: list[Place],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    batch_tokens: int,
) -> None:
    monkeypatch.setattr(generate, "BATCH_TOKENS", batch_tokens)
    assert write_lines(load_model(checkpoint), tokenizer, places) == expected


def test_the_model_is_left_as_it_was(checkpoint: Path, tokenizer: Tokenizer, places: list[Place]) -> None:
    model = load_model(checkpoint)
    expected = write_lines(model, tokenizer, places[:4])
    model.set_attn_implementation(registered("blocks"))  # which knows no cache
    model.train()
    assert write_lines(model, tokenizer, places[:4]) == expected
    assert model.training
    assert model.config._attn_implementation == registered("blocks")
