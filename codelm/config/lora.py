"""Which part of a model a low-rank adapter teaches."""

from typing import Literal

from pydantic import Field

from codelm.config.settings import Settings, Share

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear layers of a block, by their name in transformers."""


class LoraConfig(Settings):
    """W + alpha / r · B · A in place of each targeted W, which itself stays as it is (LoRA, arXiv 2106.09685)."""

    r: int = Field(16, gt=0, description="rank of the update")
    alpha: float = Field(32.0, gt=0, description="the update is multiplied by alpha / r")
    dropout: Share = Field(0.0, description="of what goes into the adapter; 0.05 to 0.1 for little code read many times")
    target_modules: tuple[Target, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="matrices of a block that get an adapter",
    )
    quantize: Literal["none", "nf4"] = Field(
        "none", description="nf4: the base in 4 bits while it is trained upon (QLoRA, arXiv 2305.14314; wants bitsandbytes)"
    )
    epochs: float = Field(2.0, gt=0, description="passes over the training split, unless pretrain.tokens or --tokens is given")
