"""Typed settings and the YAML presets."""
