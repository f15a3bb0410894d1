"""Next-token probabilities of a model mixed with what follows the same tokens in the project: a model that knows it at once.

Nested cache n-gram models of code are Hellendoorn and Devanbu 2017 (FSE, "Are deep neural networks the best choice for
modeling source code?"); the interpolation with what a data store holds is that of kNN-LM (Khandelwal et al. 2020, arXiv
1911.00172), with the length of the common context in the place of a distance.
"""

from serving.mixture.mixer import Kind, Mixer, Mixing
from serving.mixture.mixers import Mixers

__all__ = ["Kind", "Mixer", "Mixers", "Mixing"]
