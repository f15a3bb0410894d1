"""Sequence parallelism: ranks that share one sequence, each with a part of its tokens, and in attention some of the heads."""

from typing import Any

import torch
import torch.distributed as dist
from transformers import AttentionInterface, AttentionMaskInterface

from training import attention
from training.data import Sample
from training.engine.ranks import Ranks
from training.engine.zero import loaded

NAME = "codelm_ulysses"


class SharedSequence:
    """The group of `size` neighbouring ranks that this one shares its sequences with (DeepSpeed Ulysses, arXiv 2309.14509)."""

    def __init__(self, size: int, ranks: Ranks) -> None:
        self.size = size
        self.rank = ranks.rank % size
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks.count, size)]
        self.group = groups[ranks.rank // size]

    def part(self, batch: Sample, placed: bool) -> Sample:
        """This rank's part of the tokens of each sequence. placed: whether positions begin anew with each document."""
        if not placed:
            batch = batch._replace(positions=torch.arange(batch.ids.shape[1]).expand_as(batch.ids))
        return Sample(*(tensor.chunk(self.size, dim=1)[self.rank] for tensor in batch))

    def attend(self, model: Any, name: str, micro_batch: int) -> None:
        """Makes the model's attention, the function of that name, see whole sequences, for a share of the heads.

        Raises UserError without DeepSpeed.
        """
        loaded("engine.sequence_parallel needs DeepSpeed", "set it to 1")
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        shape = model.config
        ulysses = UlyssesSPAttentionHF(
            whole_sequences if name == "sdpa" else AttentionInterface()[attention.registered(name)],
            batch_size=micro_batch,
            attn_head_count=shape.num_attention_heads,
            attn_head_size=shape.head_dim,
            kv_head_count=shape.num_key_value_heads,
            num_hidden_layers=shape.num_hidden_layers,
            process_group=self.group,
            local_seq_length=shape.max_position_embeddings // self.size,
            global_seq_length=shape.max_position_embeddings,
        )
        AttentionInterface.register(NAME, ulysses.forward)
        AttentionMaskInterface.register(NAME, attention.padding)
        model.set_attn_implementation(NAME)


def whole_sequences(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    documents: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> Any:
    """`attention.sdpa`, whose mask can only be made where the sequence is whole again."""
    if documents is not None:
        length = query.shape[2]
        attention_mask = attention.visible(length, length, sliding_window, query.device, documents)
    return attention.sdpa(module, query, key, value, attention_mask, sliding_window=sliding_window, **kwargs)
