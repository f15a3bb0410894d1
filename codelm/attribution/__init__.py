"""Where a text stands verbatim in the corpus: an index of winnowed fingerprints, built with it and looked up while serving."""
