"""LoRA adapters of workspaces, over weights that are loaded once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelm.errors import UserError
from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.models import Models
from serving.request import Completion, CompletionRequest, UnavailableError

Ask = Callable[..., tuple[str, Completion]]
Start = Callable[..., Models]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "ours" / "src").mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    return tmp_path / "ours"


def text_in(folder: Path, models: Models, ask: Ask) -> str:
    return ask(models, path=str(folder / "a.py"))[1].text


def test_an_adapter_changes_what_is_written_in_its_workspace_alone(
    start: Start, ask: Ask, gguf: Path, adapter: Path, workspace: Path
) -> None:
    models = start()
    models.load(gguf)
    theirs = workspace.parent / "theirs"
    plain = text_in(theirs, models, ask)
    assert text_in(workspace, models, ask) == plain
    assert models.adapt(workspace, adapter) == [models.default]
    engine = Engine(LlamaCpp(gguf, 1, 8, adapter=adapter))
    request = CompletionRequest(prefix="import os\n\n\ndef size(path):\n    return os.path.", suffix="\n", max_tokens=12)
    adapted = engine.submit(request).future.result(timeout=60).text
    engine.close()
    assert adapted != plain
    assert text_in(workspace / "src", models, ask) == adapted
    assert ask(models, roots=(str(workspace),))[1].text == adapted, "of an unsaved document the editor's folder counts"
    assert text_in(theirs, models, ask) == plain
    models.adapt(workspace / "src", adapter)
    models.adapt(workspace, None)
    assert text_in(workspace, models, ask) == plain
    assert text_in(workspace / "src", models, ask) == adapted, "of another workspace"
    models.adapt(workspace / "src", None)
    assert text_in(workspace / "src", models, ask) == plain
    assert len(models.default.loaded()) == 1, "what nobody uses any more is freed"


def test_weights_are_in_memory_once_and_outlive_the_plain_model(
    start: Start, ask: Ask, gguf: Path, adapter: Path, workspace: Path
) -> None:
    models = start()
    models.load(gguf)
    alone = models.facts()[0]["memory"]
    models.adapt(workspace, adapter)
    both = models.facts()[0]["memory"]
    assert both == {"weights": alone["weights"], "contexts": 2 * alone["contexts"]}
    assert alone["weights"] > 100_000
    plain, adapted = (one.engine.model for one in models.default.loaded())
    assert plain._weights is adapted._weights  # type: ignore[attr-defined]
    before = text_in(workspace, models, ask)
    plain_text = text_in(workspace.parent, models, ask)
    models.unload("tiny")
    assert models.facts()[0]["memory"]["weights"] == 0
    assert [one["state"] for one in models.facts()[0]["adapters"]] == ["unloaded"]
    assert text_in(workspace, models, ask) == before, "on demand, without the plain one"
    assert len(models.default.loaded()) == 1
    assert text_in(workspace.parent, models, ask) == plain_text
    one, other = (loaded.engine.model for loaded in models.default.loaded())
    assert one._weights is other._weights  # type: ignore[attr-defined]


def test_what_is_no_adapter_of_the_model_is_refused(
    start: Start, ask: Ask, gguf: Path, random_adapter: Callable[[str], Path], workspace: Path, tmp_path: Path
) -> None:
    models = start()
    models.load(gguf)
    plain = text_in(workspace, models, ask)
    half = tmp_path / "half.gguf"
    half.write_bytes(random_adapter("0" * 64).read_bytes()[:-5000])
    cases = [
        (random_adapter("0" * 64), "trained upon other weights than those of tiny"),
        (gguf, "expect general.type to be 'adapter'"),
        (half, "cannot be laid over tiny"),
        (tmp_path / "none.gguf", "does not exist"),
    ]
    for path, told in cases:
        with pytest.raises(UserError, match=told):
            models.adapt(workspace, path)
    with pytest.raises(UserError, match="is no folder"):
        models.adapt(workspace / "none", gguf)
    assert models.facts()[0]["adapters"] == []
    assert text_in(workspace, models, ask) == plain


def test_an_adapter_of_another_shape_says_so(
    start: Start, gguf: Path, tiny_preset: Any, workspace: Path, tmp_path: Path
) -> None:
    import numpy as np

    from codelm.export.adapter import write_adapter

    name = "base_model.model.model.layers.0.mlp.down_proj"
    wide = {f"{name}.lora_A.weight": np.ones((2, 96), np.float32), f"{name}.lora_B.weight": np.ones((96, 2), np.float32)}
    write_adapter(tmp_path / "wide.gguf", tiny_preset.model, wide, 1.0, "wide", "")
    models = start()
    models.load(gguf)
    with pytest.raises(UserError, match="maybe wrong base model"):
        models.adapt(workspace, tmp_path / "wide.gguf")


def test_a_swap_takes_adapters_along_or_is_refused(
    start: Start, ask: Ask, gguf: Path, gguf_f16: Path, adapter: Path, workspace: Path, tmp_path: Path
) -> None:
    from codelm.export.rewrite import set_text

    models = start()
    models.load(gguf)
    models.adapt(workspace, adapter)
    models.put("tiny", gguf_f16)
    assert text_in(workspace, models, ask) != text_in(workspace.parent, models, ask)
    other = Path(shutil.copy(gguf, tmp_path / "other.gguf"))
    set_text(other, "codelm.weights_sha256", "1" * 64)
    with pytest.raises(UserError, match="other weights than those of tiny; take that adapter away before"):
        models.put("tiny", other)
    assert models.facts()[0]["path"] == str(gguf_f16)
    models.adapt(workspace, None)
    models.put("tiny", other)


def test_an_adapter_goes_to_the_model_that_it_fits(
    start: Start, gguf: Path, adapter: Path, workspace: Path, tmp_path: Path
) -> None:
    from codelm.export.rewrite import set_text

    other = Path(shutil.copy(gguf, tmp_path / "other.gguf"))
    set_text(other, "codelm.weights_sha256", "1" * 64)
    models = start()
    models.load(other, "first")
    second = models.load(gguf, "second")
    assert models.adapt(workspace, adapter) == [second]
    with pytest.raises(UserError, match="other weights"):
        models.adapt(workspace, adapter, "first")


def test_an_adapter_that_is_gone_with_its_folder_can_be_taken_away(
    start: Start, ask: Ask, gguf: Path, adapter: Path, workspace: Path
) -> None:
    models = start()
    models.load(gguf)
    mine = Path(shutil.copy(adapter, workspace.parent))
    models.adapt(workspace, mine)
    models.unload("tiny")
    mine.unlink()
    with pytest.raises(UnavailableError, match="does not exist"):
        text_in(workspace, models, ask)
    assert models.problem()
    shutil.rmtree(workspace)
    assert models.adapt(workspace, None) == [models.default]
    assert models.problem() is None
    assert ask(models)[1].text
