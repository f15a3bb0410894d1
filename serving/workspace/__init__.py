"""What the model is shown of the project around the open file.

roots.py        which folders a request may have read
ignore.py       .gitignore
walk.py         the source files below a folder
chunks.py       a file cut into runs of lines
identifiers.py  a text's identifiers and their parts
index.py        chunks by the words in them
workspace.py    a folder's index, kept up to date
watch.py        what tells it of changes
imports.py      which files the open one imports
relevance.py    which chunks matter at a cursor, and which of them fit
sticky.py       chunks that stay where they are from one request to the next
suffix.py       a suffix that stays as well
context.py      all of it, for the engine
"""
