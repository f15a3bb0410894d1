"""Batches, of ranks and worker processes."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from codelm.config.data import AnnealConfig, DataConfig, FimConfig, MixtureConfig
from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer
from training.data import PackedSamples, Sample, StepBatches, loader

EVERYTHING = DataConfig(
    packing="best_fit",
    repo_share=0.4,
    mixture=MixtureConfig(by="language", alpha=0.5),
    anneal=AnnealConfig(fim_rate=0.9, repo_share=0.2),
)
FIM = FimConfig(character=0.45, ast=0.35, line=0.1, block=0.05, empty=0.05)


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=["defaults", "everything"])
def samples(request: pytest.FixtureRequest, shard: TokenShard, tokenizer: Tokenizer) -> PackedSamples:
    if request.param == "defaults":
        return PackedSamples(shard, tokenizer, FimConfig(), 128, seed=3)
    return PackedSamples(shard, tokenizer, FIM, 128, seed=3, data=EVERYTHING).annealed_from(20)


def test_the_number_of_workers_changes_nothing(samples: PackedSamples) -> None:
    batches = {workers: list(loader(samples, StepBatches(2, 8, 3, 2, 0, 1), workers)) for workers in (0, 1, 2)}
    assert len(batches[0]) == 12
    for workers in (1, 2):
        assert all(same(one, other) for one, other in zip(batches[0], batches[workers], strict=True))


def test_a_run_that_resumes_reads_what_it_would_have_read(samples: PackedSamples) -> None:
    whole = list(loader(samples, StepBatches(0, 12, 3, 1, 0, 1), 0))
    resumed = list(loader(samples, StepBatches(5, 12, 3, 1, 0, 1), 1))
    assert all(same(one, other) for one, other in zip(whole[5:], resumed, strict=True))


def fresh(samples: PackedSamples, numbers: list[int], path: Path) -> None:
    """What a process makes of its copy of the samples."""
    torch.save([tuple(samples[i]) for i in numbers], path)


@pytest.mark.parametrize("samples", ["everything"], indirect=True)
def test_a_process_that_is_started_anew_makes_the_same(samples: PackedSamples, tmp_path: Path) -> None:
    numbers = [40, 3, 21, 0, 400]
    process = multiprocessing.get_context("spawn").Process(target=fresh, args=(samples, numbers, tmp_path / "samples"))
    process.start()
    process.join()
    assert all(same(samples[i], Sample(*found)) for i, found in zip(numbers, torch.load(tmp_path / "samples"), strict=True))


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "ranks"), [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)]
)
def test_ranks_and_accumulation_share_out_the_same_steps(micro_batch: int, accumulation: int, ranks: int) -> None:
    batches = [StepBatches(5, 8, micro_batch, accumulation, rank, ranks) for rank in range(ranks)]
    parts = [list(of_rank) for of_rank in batches]
    for of_rank, part in zip(batches, parts, strict=True):
        assert len(of_rank) == len(part) == 3 * accumulation
        assert all(len(batch) == micro_batch for batch in part)
    for step in range(3):
        rows = slice(step * accumulation, (step + 1) * accumulation)
        seen = sorted(i for part in parts for batch in part[rows] for i in batch)
        assert seen == list(range((5 + step) * 8, (6 + step) * 8))
