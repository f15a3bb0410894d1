"""The command line `codelm`: a file per command group, each imported only when its command runs."""
