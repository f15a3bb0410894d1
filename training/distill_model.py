"""The student as an engine sees it: samples that its teacher has something to say of, and the loss of them."""

from typing import Any, NamedTuple

import torch

from codelm.config.distill import DistillConfig
from codelm.config.pretrain import PretrainConfig
from training.data import PackedSamples, Sample
from training.distill_loss import Targets, chunked_distillation
from training.engine import LossModel
from training.engine.loss_model import Compiled, last_hidden
from training.target_cache import TargetCache
from training.teacher import Teacher


class TaughtSample(NamedTuple):
    """A `Sample` with what the teacher says of it."""

    ids: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    positions: torch.Tensor
    top: torch.Tensor
    """(length, k), as in `Targets`; k = 0: the teacher is to be asked."""
    logprobs: torch.Tensor
    """(length, k + 1) or (length, 0)"""


class TaughtSamples(PackedSamples):
    """Packed samples, of which those from a certain one on are for the teacher."""

    taught_from: int | None = None
    """The first one; None: none is."""
    cache: TargetCache | None = None
    """Where the targets lie; None: the teacher runs along."""

    def __getitem__(self, i: int) -> Sample:
        sample = super().__getitem__(i)
        if self.taught_from is None or i < self.taught_from:
            return sample
        nothing = torch.empty(self.length, 0)
        targets = self.cache.targets(i, sample) if self.cache else Targets(nothing, nothing)
        return TaughtSample(*sample, *targets)  # type: ignore[return-value]


class DistillModel(LossModel):
    """Answers with alpha · T² · KL(teacher ‖ student) + (1 − alpha) · cross-entropy where the teacher is heard.

    Elsewhere it is the very loss of pretraining.
    """

    extras = ("kl",)

    def __init__(
        self, model: Any, config: PretrainConfig, compiled: Compiled | None, distill: DistillConfig, teacher: Teacher | None
    ) -> None:
        """teacher: runs along for samples without targets."""
        super().__init__(model, config, compiled)
        self.distill = distill
        # no submodule: neither trained nor cut up nor saved
        self._teacher = [teacher]
        self._distillation = torch.compile(self._eager_distillation) if compiled == "whole" else self._eager_distillation

    def uncompile(self) -> None:
        super().uncompile()
        self._distillation = self._eager_distillation

    def forward(self, batch: Sample | TaughtSample, documents: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to learn from, and its parts: −log p(label) by kind, and the divergence; all summed."""
        if not isinstance(batch, TaughtSample):
            loss, by_kind = super().forward(batch, documents)
            return loss, torch.cat([by_kind, by_kind.new_zeros(1)])
        targets = Targets(batch.top, batch.logprobs)
        if not batch.top.shape[-1]:
            teacher = self._teacher[0]
            assert teacher is not None, "samples without targets need a teacher"
            targets = teacher(batch.ids, self.positions(batch, documents), documents)
        return self._distillation(batch, targets, documents)

    def _eager_distillation(
        self, batch: TaughtSample, targets: Targets, documents: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return chunked_distillation(
            last_hidden(self.model, batch.ids, self.positions(batch, documents), documents),
            self.model.lm_head.weight,
            batch.labels.flatten(),
            batch.kinds.flatten(),
            Targets(*(part.flatten(0, 1) for part in targets)),
            self.distill.alpha,
            self.distill.temperature,
            self.z_loss,
        )
