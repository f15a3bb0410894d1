"""How a file becomes an engine, with what is done to its completions."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from codelm.errors import UserError
from serving.answers import Answers
from serving.attribution import AttributionMode, folder_of, open_attributor
from serving.backend import KV_MEMORY, Backend
from serving.engine import PARALLEL, Engine
from serving.models.loaded import Loaded
from serving.open_model import open_model
from serving.speculation import DraftModel
from serving.workspace.relevance import ALL, Source


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Loads models, all alike (`serving.models.model.Opener`).

    threads, kv_memory: as for open_model, of each model and adapter; device, load_in: the same of checkpoints. parallel,
    read_files, sources, mixture, healing, speculation: as for Engine. draft: of the draft model; None is the one that the
    bundle names, if any. precision, attribution: as for Answers.
    """

    threads: int | None = None
    parallel: int = PARALLEL
    kv_memory: int = KV_MEMORY
    draft: Path | None = None
    read_files: bool = False
    sources: Collection[Source] = ALL
    mixture: bool = True
    healing: bool = True
    speculation: bool = True
    precision: float | None = None
    attribution: AttributionMode | None = None
    device: str | None = None
    load_in: str | None = None

    def __call__(self, path: Path, adapter: Path | None = None, beside: Loaded | None = None) -> Loaded:
        """Raises UserError if a file cannot be loaded or does not fit, or if an index is wanted and not there."""
        with contextlib.ExitStack() as stack:  # closes what is open if the next cannot be opened
            model = self._model(path, adapter, beside)
            stack.callback(model.close)
            if attributor := open_attributor(folder_of(path), self.attribution):
                stack.callback(attributor.close)
            if draft := self._draft(path, model):
                stack.callback(draft.close)
            engine = Engine(
                model,
                self.parallel,
                draft,
                read_files=self.read_files,
                sources=self.sources,
                mixture=self.mixture,
                healing=self.healing,
                speculation=self.speculation,
            )
            stack.pop_all()
        return Loaded(engine, Answers(model.metadata.gate, self.precision, attributor, engine.suggestions))

    def _model(self, path: Path, adapter: Path | None, beside: Loaded | None) -> Backend:
        if adapter and path.is_dir():
            raise UserError(
                f"{adapter} cannot be laid over {path}, which is a checkpoint", "serve a GGUF of it: `codelm export` makes one"
            )
        if path.is_dir():
            return open_model(path, self.threads, self.kv_memory, device=self.device, load_in=self.load_in)
        if not (adapter or beside):
            return open_model(path, self.threads, self.kv_memory)
        from serving.llamacpp import LlamaCpp

        base = beside.engine.model if beside else None
        assert base is None or isinstance(base, LlamaCpp)
        return LlamaCpp(path, self.threads, self.kv_memory, adapter=adapter, beside=base)

    def _draft(self, path: Path, model: Backend) -> DraftModel | None:
        draft = self.draft
        if draft is None and model.metadata.draft and self.speculation:
            draft = path.parent / model.metadata.draft
        if draft is None:
            return None
        device = self.device if draft.is_dir() else None
        smaller = open_model(draft, self.threads, self.kv_memory, self.parallel, device=device)
        try:
            return DraftModel(smaller, model)
        except BaseException:
            smaller.close()
            raise
