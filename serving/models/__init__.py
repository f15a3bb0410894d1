"""The models that a server answers with: several at once, each under a name, loaded, swapped and freed while it serves.

loaded.py    one file in memory, counted by those who use it
model.py     one name: its file, the one before it, adapters of workspaces
models.py    all of them, and which one a request gets
opening.py   how a file becomes an engine
"""

from serving.models.loaded import Loaded
from serving.models.model import ServedModel
from serving.models.models import Models, UnknownModelError

__all__ = ["Loaded", "Models", "ServedModel", "UnknownModelError"]
