"""codelm: from a folder of source code to a completion in your editor. This package is what training and serving share."""

__version__ = "0.1.0"
