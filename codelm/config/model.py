"""The shape of a model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from codelm.config.settings import Settings

K_QUANT_BLOCK = 256
"""Numbers in a block of llama.cpp's K-quants (QK_K): rows of other lengths fall back to larger formats."""


class RopeScaling(Settings):
    """How positions beyond the trained context are told apart."""

    method: Literal["linear", "ntk", "yarn"] = Field(
        description="linear: positions divided (arXiv 2306.15595); ntk: a larger base; yarn: by wavelength (arXiv 2309.00071)"
    )
    factor: float = Field(gt=1, description="new context over the one that was trained")
    original_context: int = Field(gt=0, description="tokens of the context that was trained without scaling")


class ModelConfig(Settings):
    """The shape of a decoder-only transformer: RMSNorm, SwiGLU, RoPE, grouped-query attention, tied embeddings."""

    architecture: Literal["llama", "qwen3"] = Field(description="qwen3 is llama with RMS-normed queries and keys")
    layers: int = Field(gt=0, description="decoder blocks, one after the other")
    width: int = Field(gt=0, description="of the residual stream; a multiple of 256, so that K-quants apply")
    heads: int = Field(gt=0, description="of the queries; they share out the width")
    kv_heads: int = Field(gt=0, description="of keys and values; a divisor of heads")
    head_dim: int = Field(gt=0, description="width of a head; heads × head_dim a multiple of 256 too")
    ffn: int = Field(gt=0, description="inner width of the SwiGLU; a multiple of 256 as well")
    vocab_size: int = Field(gt=0, description="entries of the embedding, as many as the tokenizer has")
    context_length: int = Field(gt=0, description="tokens seen at once, in training and in serving")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the wavelengths that tell positions apart")
    rope_scaling: RopeScaling | None = Field(None, description="for a context longer than the trained one")
    sliding_window: int | None = Field(None, gt=0, description="tokens that a token sees back; None: all")
    norm_eps: float = Field(1e-6, gt=0, description="added to the mean square in RMSNorm")

    @property
    def rope_base(self) -> float:
        """The base of RoPE's wavelengths. NTK-aware scaling is a larger one: θ · factor^(d / (d − 2)), d = head_dim, which
        stretches the longest wavelength by the factor and leaves the shortest alone (arXiv 2309.00071, §3.1)."""
        if self.rope_scaling is None or self.rope_scaling.method != "ntk":
            return self.rope_theta
        return float(self.rope_theta * self.rope_scaling.factor ** (self.head_dim / (self.head_dim - 2)))

    @model_validator(mode="after")
    def scaling_reaches_the_context(self) -> Self:
        if (scaling := self.rope_scaling) and self.context_length > scaling.original_context * scaling.factor:
            raise ValueError(
                f"context_length {self.context_length} is beyond rope_scaling: {scaling.original_context} tokens times"
                f" {scaling.factor:g}; give a factor of {self.context_length / scaling.original_context:g}"
            )
        return self

    @model_validator(mode="after")
    def is_a_legal_shape(self) -> Self:
        for name in ("width", "ffn"):
            if (value := getattr(self, name)) % K_QUANT_BLOCK:
                near = max(round(value / K_QUANT_BLOCK), 1) * K_QUANT_BLOCK
                raise ValueError(f"{name} {value} is no multiple of {K_QUANT_BLOCK}, the block of the K-quants, as {near} is")
        if self.width % self.heads:
            near = min((n for n in range(1, self.width + 1) if self.width % n == 0), key=lambda n: abs(n - self.heads))
            raise ValueError(f"width {self.width} cannot be shared out among {self.heads} heads, but among {near}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot be shared out among {self.kv_heads} kv_heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, RoPE turns pairs")
        return self
