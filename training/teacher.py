"""A frozen model that says, of each next token, how likely it finds it."""

from pathlib import Path

import torch

from codelm.config.distill import DistillConfig
from codelm.errors import UserError
from codelm.models import load_model
from training.distill_loss import Targets, targets_of
from training.engine import Engine
from training.engine.loss_model import last_hidden
from training.loss import CHUNK


class Teacher:
    """The targets of a checkpoint's model, of any width and architecture, but of the student's vocabulary."""

    def __init__(self, checkpoint: Path, config: DistillConfig, vocab_size: int, length: int) -> None:
        """length: of the student's context. Raises UserError if the teacher has another vocabulary or a shorter context."""
        self.model = load_model(checkpoint).requires_grad_(False).eval()
        theirs = self.model.config
        if theirs.vocab_size != vocab_size:
            raise UserError(
                f"{checkpoint} knows {theirs.vocab_size:,} tokens, the student {vocab_size:,}",
                "give a teacher that was trained with the student's tokenizer",
            )
        if theirs.max_position_embeddings < length:
            raise UserError(
                f"{checkpoint} sees {theirs.max_position_embeddings:,} tokens at once, the student {length:,}",
                "give a teacher with a longer context, or a student with a shorter one",
            )
        self.k = min(config.top_k, vocab_size)
        self.temperature = config.temperature
        self._targets = self._eager_targets

    def prepare(self, engine: Engine) -> None:
        """Brings the teacher to where its student is trained, to be computed in the same way.

        Raises UserError if several ranks share a sequence there: the teacher reads whole ones.
        """
        if engine.sequence:
            raise UserError("a teacher reads whole sequences", "set engine.sequence_parallel to 1")
        self.model.to(engine.device)
        self.model.set_attn_implementation(engine.model.config._attn_implementation)
        if engine.why_not_compiled is None:
            self._targets = torch.compile(self._eager_targets)

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, positions: torch.Tensor | None, documents: torch.Tensor | None) -> Targets:
        """The targets at each position of a batch: (batch, length, k) and (batch, length, k + 1).

        ids, positions: (batch, length). documents: as of `LossModel`. Like the loss it never holds all logits.
        """
        return self._targets(ids, positions, documents)

    def _eager_targets(self, ids: torch.Tensor, positions: torch.Tensor | None, documents: torch.Tensor | None) -> Targets:
        hidden = last_hidden(self.model, ids, positions, documents)
        chunks = (hidden[start : start + CHUNK] for start in range(0, len(hidden), CHUNK))
        parts = [targets_of(self.model.lm_head(chunk), self.k, self.temperature) for chunk in chunks]
        return Targets(*(torch.cat(part).view(*ids.shape, -1) for part in zip(*parts, strict=True)))
