"""The model that codelm brings along, for `codelm serve` and `codelm complete` where none is named."""
