"""Memory of one device while a model trains, part by part.

Weights, gradients and optimiser state follow "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
(arXiv 1910.02054, §3 and figure 1), with weights kept in float32 as our engines keep them: a parameter takes 4 + 4 + 8 bytes
for AdamW instead of 2 + 2 + 12, the same sum. Activations follow "Reducing Activation Recomputation in Large Transformer
Models" (arXiv 2205.05198, §4), counted anew for RMSNorm, SwiGLU, RoPE and grouped queries as torch saves them for the
backward pass; a test compares them with what it really saves.
"""

from typing import Literal, NamedTuple

from codelm.config.model import ModelConfig
from codelm.config.pretrain import PretrainConfig
from codelm.config.rules import Strategy
from codelm.models import parameter_count, reach
from training.attention import BLOCK
from training.loss import CHUNK

FLOAT = 4
BUCKET = 50_000_000
"""Elements that DeepSpeed reduces at once, twice where it overlaps: `reduce_bucket_size` in codelm/config/deepspeed."""
LIVE = 1_000_000_000
"""Parameters that ZeRO-3 leaves gathered: `stage3_max_live_parameters` there."""
LOGIT_BYTES = {True: 10, False: 18}
"""A logit of the chunk that is in work, with its probability, gradient and mask: compiled, and not."""

Attention = Literal["fused", "blocks"]
"""fused: scores never stand in memory (flash kernels). blocks: those of a block do, training/attention.py."""


class Computation(NamedTuple):
    """How it is computed, as far as it takes memory."""

    strategy: Strategy
    ranks: int
    micro_batch_size: int
    sequence_parallel: int = 1
    checkpointing: bool = False
    half: bool = True
    """Whether autocast makes products in 2 bytes."""
    compiled: bool = True
    attention: Attention = "fused"


class Memory(NamedTuple):
    """Bytes of one device at the height of a step, part by part."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    """Copies in the dtype of the products, gathered weights, buckets of what is sent."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it at once: an upper bound, since gradients come as activations go."""
        return sum(self)


def memory(model: ModelConfig, config: PretrainConfig, how: Computation) -> Memory:
    """The memory of a training step."""
    count, ranks = parameter_count(model), how.ranks
    weights, gradients, state = FLOAT * count, FLOAT * count, optimizer_bytes(model, config)
    compute = 2 if how.half else FLOAT
    copies = compute * count if how.half else 0
    match how.strategy:
        case "single":
            parts = (weights, gradients, state, copies)
        case "ddp":  # its buckets are as large as the gradients
            parts = (weights, gradients, state, copies + gradients)
        case "zero2":  # each rank also holds its part of the weights a second time, which the optimiser updates
            parts = (weights, gradients // ranks, (state + weights) // ranks, copies + 2 * FLOAT * min(BUCKET, count))
        case "zero3":
            gathered = FLOAT * min(LIVE, count) + 2 * FLOAT * min(BUCKET, count)
            parts = (weights // ranks, gradients // ranks, (state + weights) // ranks, copies + gathered)
        case "fsdp2":  # a block is gathered while the next one is; the embedding stays
            embedding = FLOAT * model.vocab_size * model.width
            gathered = 2 * embedding + 2 * (compute + FLOAT) * block_parameters(model)
            parts = (weights // ranks, gradients // ranks, state // ranks, gathered)
    return Memory(*parts, activation_bytes(model, how), logit_bytes(model, how))


def optimizer_bytes(model: ModelConfig, config: PretrainConfig) -> int:
    """What the optimiser remembers: two numbers a parameter for AdamW; one for Muon's matrices. And the running mean."""
    count = parameter_count(model)
    mean = FLOAT * count if config.ema is not None else 0
    if config.optimizer == "muon":
        return 2 * FLOAT * count - FLOAT * model.layers * block_matrices(model) + mean
    return 2 * FLOAT * count + mean


def block_matrices(model: ModelConfig) -> int:
    """Numbers in the matrices of a block."""
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return model.width * (2 * query + 2 * key) + 3 * model.width * model.ffn


def block_parameters(model: ModelConfig) -> int:
    """Numbers in a block."""
    return (parameter_count(model) - model.vocab_size * model.width - model.width) // model.layers


def activation_bytes(model: ModelConfig, how: Computation) -> int:
    """What is kept from the forward pass for the backward pass.

    With checkpointing: the input of each block, and all of one block while it is computed again.
    """
    tokens = how.micro_batch_size * model.context_length // how.sequence_parallel
    block = block_bytes(model, how)
    compute = 2 if how.half else FLOAT
    # what goes into the last norm, and the gradient of what comes out, which the forward pass computes; uncompiled two more
    around = (1 if how.compiled else 2) * (FLOAT + compute) * model.width
    blocks = model.layers * FLOAT * model.width + block if how.checkpointing else model.layers * block
    return tokens * (blocks + around)


def block_bytes(model: ModelConfig, how: Computation) -> int:
    """Bytes that a block keeps of each token. The residual stream and the norms are float32, the rest as autocast has it."""
    width, ffn, query = model.width, model.ffn, model.heads * model.head_dim
    key = model.kv_heads * model.head_dim
    compute = 2 if how.half else FLOAT
    if how.compiled:
        # inputs of both norms, what they made of them, gate, up and their product
        kept = 2 * FLOAT * width + 2 * compute * width + 3 * compute * ffn
    else:
        # besides: the normed streams before their weights, the activated gate; autocast copies the input of each product
        copies = 5 * compute * width if how.half else 2 * FLOAT * width
        kept = 4 * FLOAT * width + copies + 4 * compute * ffn
    # queries, keys, values and what comes out
    attention = compute * (2 * query + 2 * key)
    if how.attention == "fused":
        attention += FLOAT * model.heads  # the logarithm of each softmax's sum
    else:  # half of what a token may see, and half a block
        attention += model.heads * (reach(model) + BLOCK) // 2 * (FLOAT + (compute if how.half else 0))
    return kept + attention + 2 * FLOAT


def logit_bytes(model: ModelConfig, how: Computation) -> int:
    """The logits of a chunk of positions, and the gradient of the head, which the forward pass computes (training/loss.py)."""
    positions = min(CHUNK, how.micro_batch_size * model.context_length // how.sequence_parallel)
    return positions * model.vocab_size * LOGIT_BYTES[how.compiled] + FLOAT * model.vocab_size * model.width
