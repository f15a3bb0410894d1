"""The order of the training data: sample i is a pure function of (seed, i).

A sample is a window of `length` + 1 token ids. Which documents it holds, a packing says (packing.py, repositories.py); which
packing's turn it is, the mixture (mixture.py); what becomes a fill-in-the-middle example, examples.py. Every random choice
comes from a counter-based generator keyed by (seed, purpose, numbers), so a run that resumes at sample i, or has another
number of data workers or ranks, sees the very same tokens.
"""

from training.data.examples import SHORTEST_FIM_PIECE, fim_piece
from training.data.loading import StepBatches, loader
from training.data.samples import PackedSamples, Sample
from training.data.seeding import SAMPLE, generator

__all__ = ["SAMPLE", "SHORTEST_FIM_PIECE", "PackedSamples", "Sample", "StepBatches", "fim_piece", "generator", "loader"]
