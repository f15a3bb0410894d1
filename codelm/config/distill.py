"""How a student learns from a teacher."""

from typing import Literal

from pydantic import Field

from codelm.config.settings import Settings, Share


class DistillConfig(Settings):
    """loss = alpha · KL(teacher ‖ student) + (1 − alpha) · cross-entropy (Hinton et al. 2015, arXiv 1503.02531)."""

    alpha: Share = Field(0.5, description="weight of the teacher; 0: plain training, 1: the teacher alone")
    temperature: float = Field(1.0, gt=0, description="of both distributions; the divergence is multiplied by its square")
    top_k: int = Field(64, gt=0, description="the teacher's likeliest tokens at each position; all others are one bucket")
    phase: Literal["decay", "all"] = Field("decay", description="decay: the teacher speaks while the learning rate falls")
