"""Training: data order, optimisation and the loop. Imports codelm, never serving."""
