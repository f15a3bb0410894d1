"""Serving: request → prompt → engine → answer. Imports codelm, never training; never pulls torch."""
