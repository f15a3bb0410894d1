import hashlib
import shutil
from pathlib import Path

import gguf
import pytest

from codelm.errors import UserError
from codelm.export.rewrite import set_text
from codelm.stage import Manifest, file_sha256

KEY = "codelm.gate"


def texts(path: Path) -> dict[str, object]:
    """Every key's value, and every tensor's bytes as a hash."""
    reader = gguf.GGUFReader(path)
    values: dict[str, object] = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    return values | {tensor.name: hashlib.sha256(tensor.data.tobytes()).hexdigest() for tensor in reader.tensors}


@pytest.fixture
def copy(gguf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(gguf, tmp_path / "model.gguf"))


def test_only_the_one_key_changes(copy: Path) -> None:
    before = texts(copy)
    for text in ('{"ö": [1, 2]}', "", "x" * 1001):
        set_text(copy, KEY, text)
        assert texts(copy) == before | {KEY: text}
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_llama_cpp_reads_it(copy: Path) -> None:
    from serving.llamacpp import LlamaCpp

    set_text(copy, KEY, "[1]")
    model = LlamaCpp(copy)
    assert model.metadata.gate == "[1]"
    model.close()


def test_the_manifest_of_the_folder_tells_the_new_hash(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(bundle, folder)
    before = Manifest.read(folder)
    model = folder / "tiny-q8_0.gguf"
    set_text(model, KEY, "{}")
    after = Manifest.read(folder)
    assert after.outputs == before.outputs | {model.name: file_sha256(model)}
    assert after.outputs != before.outputs


@pytest.mark.parametrize("keep", [0, 3, 1000, 50_000, -100])
def test_what_is_no_whole_gguf_is_left_alone(copy: Path, keep: int) -> None:
    data = copy.read_bytes()[:keep]
    copy.write_bytes(data)
    with pytest.raises(UserError, match="not a whole GGUF file"):
        set_text(copy, KEY, "{}")
    assert copy.read_bytes() == data
    assert len(list(copy.parent.iterdir())) == 1


def test_an_interrupted_write_leaves_the_file_whole(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = copy.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codelm.export.rewrite.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        set_text(copy, KEY, "{}")
    assert copy.read_bytes() == data
    assert len(list(copy.parent.iterdir())) == 1
