"""Stage folders: whole or absent, recognised, replaced only by something whole, held by one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.errors import UserError
from codelm.stage import MANIFEST, Manifest, Stage, lock, write_atomically


def make(folder: Path, text: str = "hello", **arguments: object) -> Manifest:
    """A stage that writes one file."""
    stage = Stage(folder, {"text": text}, **arguments)  # type: ignore[arg-type]
    with stage.build() as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file.txt").write_text(text, encoding="utf-8")
        stage.counts = {"characters": len(text)}
    return Manifest.read(folder)


def test_what_a_manifest_says(tmp_path: Path) -> None:
    manifest = make(tmp_path / "stage", inputs={"before": "abc"}, seed=3, libraries=("pydantic",))
    assert manifest.stage == "stage"
    assert manifest.config == {"text": "hello"}
    assert manifest.inputs == {"before": "abc"}
    assert manifest.seed == 3
    assert manifest.counts == {"characters": 5}
    assert list(manifest.outputs) == ["sub/file.txt"]
    assert manifest.libraries.keys() == {"python", "pydantic"}
    assert manifest.seconds >= 0
    assert manifest.created


def test_it_is_done_for_the_same_inputs_and_configuration_only(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    assert Stage(folder, {"text": "hello"}).done() is None
    manifest = make(folder)
    assert Stage(folder, {"text": "hello"}).done() == manifest
    assert Stage(folder, {"text": "bye"}).done() is None
    assert Stage(folder, {"text": "hello"}, inputs={"before": "abc"}).done() is None
    assert Stage(folder, {"text": "hello"}, seed=1).done() is None
    folder.rename(tmp_path / "other")
    assert Stage(tmp_path / "other", {"text": "hello"}).done() is None


def test_it_is_not_done_when_a_file_is_gone(tmp_path: Path) -> None:
    make(tmp_path / "stage")
    (tmp_path / "stage" / "sub" / "file.txt").unlink()
    assert Stage(tmp_path / "stage", {"text": "hello"}).done() is None


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    one, same, other = make(tmp_path / "a"), make(tmp_path / "b", seed=5), make(tmp_path / "c", "bye")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.fingerprint == one.fingerprint_of("sub/")
    assert one.fingerprint_of("elsewhere/") != one.fingerprint


def test_a_new_build_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    make(tmp_path / "stage")
    (tmp_path / "stage" / "stray.txt").touch()
    make(tmp_path / "stage", "bye")
    assert sorted(path.name for path in (tmp_path / "stage").rglob("*")) == ["file.txt", MANIFEST, "sub"]
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_a_build_that_fails_leaves_what_stood(tmp_path: Path, error: type[BaseException]) -> None:
    before = make(tmp_path / "stage")
    stage = Stage(tmp_path / "stage", {"text": "bye"})
    with pytest.raises(error), stage.build() as temporary:
        (temporary / "file.txt").write_text("half", encoding="utf-8")
        raise error("x", "y") if error is UserError else error
    assert Manifest.read(tmp_path / "stage") == before
    assert (tmp_path / "stage" / "sub" / "file.txt").read_text(encoding="utf-8") == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_what_a_killed_build_left_is_no_obstacle(tmp_path: Path) -> None:
    for left in (".stage.partial", ".stage.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").touch()
    make(tmp_path / "stage")
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_manifests_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished stage"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match=f"make it with `codelm corpus build … --run {tmp_path}`"):
        Manifest.read(tmp_path / "corpus")
    for text in ("", "{", "{}", '{"stage": 1}'):
        (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="not a readable manifest"):
            Manifest.read(tmp_path)
        assert Stage(tmp_path, {}).done() is None
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a readable manifest"):
        Manifest.read(tmp_path)


DISK_FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from codelm.errors import UserError
from codelm.stage import Stage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with Stage(Path(sys.argv[1]), {"text": "more"}).build() as temporary:
        (temporary / "small").write_bytes(b"x" * 9_000)
        large = temporary / "large"
        %s
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("write", ["large.write_bytes(b'x' * 20_000)", "np.zeros(20_000).tofile(large)"])
def test_a_full_disk_is_a_user_error_and_leaves_what_stood(tmp_path: Path, write: str) -> None:
    before = make(tmp_path / "stage")
    process = subprocess.run([sys.executable, "-c", DISK_FULL % write, str(tmp_path / "stage")], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert " while writing; free some space" in process.stdout
    assert Manifest.read(tmp_path / "stage") == before
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


HOLD = """
import sys, time
from pathlib import Path
from codelm.stage import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_belongs_to_one_process_until_it_dies(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"is in use by process {process.pid}; wait for it, stop it"), lock(tmp_path / "run"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text(encoding="utf-8") == str(os.getpid())


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path):
        raise RuntimeError
    with lock(tmp_path):
        pass


def test_a_file_written_atomically_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_atomically(tmp_path / "file", text)
        assert (tmp_path / "file").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
