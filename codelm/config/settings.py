"""What all settings have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Settings refuse keys they do not know and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
