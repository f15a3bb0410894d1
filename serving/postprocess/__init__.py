"""From what a model wrote to what is shown: small steps, each a pure function of the text and its place."""

from serving.postprocess.pipeline import Processed, postprocess

__all__ = ["Processed", "postprocess"]
