"""The baselines that write lines."""

from pathlib import Path

import numpy as np
import pytest

from codelm.evaluation.baselines import Ngram, SimilarLine, copied
from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.measures import is_exact
from codelm.evaluation.places import draw_places


@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        ("for a in b:\n    f(a)\nfor a in c:\n    f(a)\nfor a in ", "c:"),  # of equals the nearest
        ("x = f(1)\ny = g(2)\nz = x\nx = f(1)\n", "y = g(2)"),  # the line that followed the same line
        ("x = 1\nq = 2\ny = 1\nr = 3\nx = 1\n", "q = 2"),  # more in common goes before nearer
        ("aba", "ba"),  # it may go on into the line itself
        ("abc", ""),
        ("a", ""),
        ("", ""),
    ],
)
def test_what_followed_the_most_similar_text(prefix: str, line: str) -> None:
    assert copied(prefix) == line


def test_a_similar_line_knows_no_probabilities(corpus: Path, tokens_dir: Path) -> None:
    assert SimilarLine().bits(HeldOut(corpus, tokens_dir), 1_000) is None


@pytest.fixture(scope="module")
def ngram(tokens_dir: Path, tokenizer_dir: Path) -> Ngram:
    return Ngram(tokens_dir, tokenizer_dir, window=512)


def test_an_ngram_goes_on_as_its_corpus_does(ngram: Ngram, corpus: Path) -> None:
    from codelm.corpus.read import read_rows

    texts = [row["content"] for row in read_rows(corpus, "train")]
    seen = [*draw_places(texts, 30, 0), *draw_places(texts, 30, 0, whole_line=True)]
    written = ngram.write(seen)
    assert len(written.lines) == len(written.milliseconds) == 60
    assert sum(map(is_exact, written.lines, seen)) > 5, "it has seen these very lines"
    assert not any("\n" in line for line in written.lines)


def test_a_token_that_the_cursor_cut_is_taken_back(ngram: Ngram) -> None:
    assert ngram.line(ngram.model, "    return Non").startswith("e")


def test_it_is_scored_on_the_windows_of_the_model_beside_it(ngram: Ngram, corpus: Path, tokens_dir: Path) -> None:
    found = ngram.bits(HeldOut(corpus, tokens_dir), 4_096)
    assert found
    bits, bytes_ = found
    assert bits.shape == bytes_.shape == (8,)
    assert 1 < bits.sum() / bytes_.sum() < 4
    assert np.all(bytes_ <= 512 * 32)
