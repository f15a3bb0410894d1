"""Where source code comes from: folders, git repositories, installed packages, tables, sets of the Hugging Face hub."""
