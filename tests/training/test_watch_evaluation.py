"""Which checkpoints are evaluated, where, and which one is the best."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from codelm.config.watch import WatchConfig
from codelm.corpus.read import read_rows
from codelm.corpus.tokens import open_shard
from codelm.tokenizer import FILE, Tokenizer
from training.watch_evaluation import Evaluation, is_due, rank


@given(st.integers(1, 300), st.integers(0, 20), st.none() | st.integers(1, 100))
def test_evaluations_are_spread_over_the_run(steps: int, count: int, every: int | None) -> None:
    config = WatchConfig(evaluations=count, checkpoint_steps=every)
    due = [step for step in range(1, steps + 1) if is_due(step, steps, config)]
    if not count and every is None:
        assert due == []
        return
    assert due[-1] == steps
    assert len(due) >= min(count, steps)
    gaps = [after - before for before, after in zip([0, *due], due, strict=False)]
    longest = -(-steps // count) if count else every
    assert longest is not None
    assert max(gaps) <= min(longest, every or longest)
    if every is None:
        assert len(due) == min(count, steps)


def test_what_is_completed_stands_in_held_out_files(tokens_dir: Path, tokenizer_dir: Path, corpus: Path) -> None:
    valid, tokenizer = open_shard(tokens_dir, "valid"), Tokenizer(tokenizer_dir / FILE)
    held_out = {row["content"] for row in read_rows(corpus, "valid")}
    few = Evaluation(WatchConfig(evaluation_places=2), valid, tokenizer).texts
    many = Evaluation(WatchConfig(evaluation_places=1000), valid, tokenizer).texts
    assert len(few) == 2
    assert set(few) < set(many) == held_out
    assert Evaluation(WatchConfig(evaluation_places=0), valid, tokenizer).texts == []


def test_the_best_is_best_at_infilling_and_ties_go_by_bits_per_byte() -> None:
    rows = [
        {"step": 1, "valid_bits_per_byte": 1.0, "valid_exact_match": 0.1},
        {"step": 2, "valid_bits_per_byte": 3.0, "valid_exact_match": 0.2},
        {"step": 3, "valid_bits_per_byte": 2.0, "valid_exact_match": 0.2},
        {"step": 4, "valid_bits_per_byte": 2.5, "valid_exact_match": 0.2},
    ]
    assert max(rows, key=rank)["step"] == 3
    assert max([{"step": 1, "valid_bits_per_byte": 2.0}, {"step": 2, "valid_bits_per_byte": 1.5}], key=rank)["step"] == 2
