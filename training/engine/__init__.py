"""How a training is computed: processes, devices, precision, and what is cut up among the ranks."""

from training.engine.compilation import why_not_compilable
from training.engine.engine import Engine, NotFiniteError, Objective
from training.engine.loss_model import LossModel
from training.engine.precision import precision_of

__all__ = ["Engine", "LossModel", "NotFiniteError", "Objective", "precision_of", "why_not_compilable"]
