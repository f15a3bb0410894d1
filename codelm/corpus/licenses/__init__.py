"""Licences: what a file's package, the texts around it and its own header say, and whether the policy lets it stay."""
