"""Which files of a workspace the open one imports; the rules for each language are `codelm.corpus.order`'s."""

from collections.abc import Iterable
from functools import lru_cache

from codelm.corpus.languages import language_of_name
from codelm.corpus.order import Resolver, imports_of

targets_of = lru_cache(maxsize=32)(imports_of)
"""An open file's head is the same at nearly every keystroke."""


class Imports:
    """The files of a workspace, to be found by what an import says."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """paths: below the root."""
        self._paths = sorted(paths)
        self._numbers = {path: number for number, path in enumerate(self._paths)}
        self._languages = [language_of_name(path) for path in self._paths]
        self._resolver = Resolver(self._paths, None, self._languages)

    def of(self, path: str, text: str) -> frozenset[str]:
        """What a file with this text imports; nothing for one that is not in the workspace (yet)."""
        number = self._numbers.get(path)
        language = None if number is None else self._languages[number]
        if number is None or language is None:
            return frozenset()
        found: set[str] = set()
        for node in self._resolver.imported(number, targets_of(text, language)):
            if node < len(self._paths):
                found.add(self._paths[node])
            else:  # a folder, as Go imports them
                found.update(self._paths[member] for member in self._resolver.dependencies(node))
        return frozenset(found)
