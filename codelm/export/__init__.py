"""Checkpoint → GGUF bundle: writer, quantiser, model card, and the metadata that makes a file self-describing."""
