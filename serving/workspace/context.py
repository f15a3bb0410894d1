"""What the engine knows of a request's project: the suffix that stays, chunks for the prompt, and the cache mixture."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codelm import fim
from serving.mixture import Mixers, Mixing
from serving.prompt import Encode, Repository, repository_budget
from serving.request import CompletionRequest
from serving.workspace.relevance import ALL, Source
from serving.workspace.roots import root_of
from serving.workspace.sticky import StickyChunks
from serving.workspace.suffix import SuffixSnapshots
from serving.workspace.workspace import Workspace

MAX_STICKY = 64
"""Folders and clients whose prompts' chunks are kept."""
MAX_WORKSPACES = 4
"""Folders that are watched; the one that was not asked about for longest is given up for a new one."""


class Context(NamedTuple):
    """For `prompt.build`."""

    suffix: str
    repository: Repository | None


class Contexts:
    """The contexts of one model's prompts. Not thread-safe: the thread that builds prompts owns it."""

    def __init__(
        self,
        tokens: fim.FimTokens,
        context_length: int,
        *,
        repo_context: bool,
        read_files: bool,
        sources: Collection[Source] = ALL,
        mixers: Mixers | None = None,
    ) -> None:
        """tokens, context_length: of the model. repo_context: whether it was trained on files of a repository
        (`BundleMetadata.repo_context`); if not, prompts hold the open file alone. read_files: whether folders that requests
        name may be read: only where nobody but this machine can send requests. sources: of chunks. mixers: of the projects; a
        client without a folder is one of its own. None: `begin` is not called.
        """
        self.tokens = tokens
        self.longest_name = fim.longest_name(context_length)
        self.repo_context = repo_context
        self.read_files = read_files
        self.sources = frozenset(sources)
        self.mixers = mixers
        self._workspaces: OrderedDict[Path | None, Workspace] = OrderedDict()
        self._sticky: OrderedDict[Path | str, StickyChunks] = OrderedDict()
        self._known: tuple[Workspace, ...] = ()
        """the workspaces, for other threads"""
        self._suffixes = SuffixSnapshots()

    def of(self, request: CompletionRequest, encode: Encode, budget: int) -> Context:
        """The context of a request. budget: of the whole prompt, in tokens. Reads no file."""
        document = (request.client, request.document) if request.document is not None else None
        suffix = request.suffix if document is None else self._suffixes.of(document, request.prefix, request.suffix)
        return Context(suffix, self._repository(request, document, encode, budget) if self.repo_context else None)

    def begin(self, request: CompletionRequest, prompt_ids: Sequence[int]) -> Mixing:
        """The project's opinion for a request. prompt_ids: as they will be read."""
        assert self.mixers is not None, "nobody asks for a mixture that there is not"
        root = root_of(request) if self.read_files else None
        # what somebody without a name brings along is for nobody else, who may have a document of that name too
        brought = (request.document, tuple((file.path, file.text) for file in request.files)) if request.files else None
        mixer = self.mixers.of(root or request.client or brought, self._workspaces)
        if root:
            self._workspace(root)
        return mixer.begin(request, prompt_ids)

    def facts(self) -> dict[str, Any]:
        """Of the workspaces (`Workspace.facts`) and of the mixtures (`Mixers.facts`; None: there are none). From any thread."""
        return {"workspaces": [one.facts() for one in self._known if one.root], "mixture": self.mixers and self.mixers.facts()}

    def close(self) -> None:
        """Ends the workspaces' threads."""
        for workspace in self._workspaces.values():
            workspace.stop()
        for workspace in self._workspaces.values():
            workspace.close()
        if self.mixers:
            self.mixers.close()
        self._workspaces.clear()
        self._known = ()

    def _repository(
        self, request: CompletionRequest, document: tuple[str | None, str] | None, encode: Encode, budget: int
    ) -> Repository | None:
        if request.path is None:
            return None
        root = root_of(request) if self.read_files else None
        workspace, sticky = self._workspace(root), self._sticky_of(root or request.client)
        path = workspace.below(request.path)
        given = {
            workspace.below(one) for one in (*(file.path for file in request.files), *(file.path for file in request.recent))
        }
        empty = Repository(workspace.name, (), path, self.longest_name)
        chunks = sticky.choose(
            document,
            request.prefix.count("\n"),
            lambda: workspace.rank(request, self.sources),
            lambda other: other != path and (workspace.has(other) or other in given),
            repository_budget(budget) - len(empty.ids(self.tokens, encode)),
            encode,
        )
        return empty._replace(files=tuple((chunk.path, chunk.text) for chunk in chunks))

    def _sticky_of(self, owner: Path | str | None) -> StickyChunks:
        """The chunks of a folder's documents, or of a client's without a folder. Who has neither shares them with nobody."""
        if owner is None:
            return StickyChunks()
        sticky = self._sticky.setdefault(owner, StickyChunks())
        self._sticky.move_to_end(owner)
        if len(self._sticky) > MAX_STICKY:
            self._sticky.popitem(last=False)
        return sticky

    def _workspace(self, root: Path | None) -> Workspace:
        """The workspace of a folder, which begins to be indexed when it is first asked for."""
        if root not in self._workspaces:
            if len(self._workspaces) >= MAX_WORKSPACES:
                old, given_up = self._workspaces.popitem(last=False)
                given_up.stop()
                if old and self.mixers:
                    self.mixers.forget(old)
            workspace = Workspace(root, chunks=self.repo_context, on_file=self._listener(root))
            workspace.start()
            self._workspaces[root] = workspace
            self._known = tuple(self._workspaces.values())
        self._workspaces.move_to_end(root)
        return self._workspaces[root]

    def _listener(self, root: Path | None) -> Callable[[str, str | None], object]:
        """What takes a workspace's files into its mixture."""
        if root is None or self.mixers is None:
            return lambda path, text: None
        mixer = self.mixers.of(root, self._workspaces)
        return lambda path, text: mixer.remove(path) if text is None else mixer.update(path, text)
