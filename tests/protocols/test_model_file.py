"""What becomes of a running server when somebody touches its model's file: it goes on with what it has loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest


def cut_short(path: Path, other: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


def overwritten(path: Path, other: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def replaced(path: Path, other: Path) -> None:
    shutil.copy(other, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def removed(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("touch", [cut_short, overwritten, replaced, removed])
def test_it_serves_on_and_says_so(
    gguf: Path, gguf_f16: Path, tmp_path: Path, serve: Callable[..., httpx.Client], touch: Callable[[Path, Path], None]
) -> None:
    path = Path(shutil.copy(gguf, tmp_path / "model.gguf"))
    http = serve(path)

    def write(number: int) -> str:
        body = {"prompt": f"class Shape{number}:\n    def __init__(self, ", "max_tokens": 16}
        return str(http.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"])

    before = [write(number) for number in range(3)]
    assert http.get("/health").json()["status"] == "ok"
    touch(path, gguf_f16)
    assert [write(number) for number in range(3)] == before
    health = http.get("/health").json()
    assert health["status"] == "degraded"
    assert "since it was loaded" in health["problem"]
    assert health["requests"]["failed"] == 0
