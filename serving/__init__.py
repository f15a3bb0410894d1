"""Serving: request → prompt → engine → answer. Imports codelm, never training; never pulls torch."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8417
