"""How good a model is on code it has not seen."""
