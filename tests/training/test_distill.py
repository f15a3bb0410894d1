"""A student that learns from a teacher, in the same loop."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.run_folder import found, step_of
from codelm.stage import Manifest, file_sha256
from training import metrics, target_cache
from training.distill import distill, stable_checkpoint
from training.engine import Engine
from training.origin import continued
from training.pretrain import pretrain
from training.teacher import Teacher

STEPS, BATCH, LENGTH = 20, 4, 64
DECAY = 8
Distill = Callable[..., Manifest]


@pytest.fixture(scope="module")
def wsd(minute_preset: Path) -> Preset:
    """A student's training of 20 steps, whose rate falls over the last 8."""
    return load_preset(str(minute_preset)).with_training(
        tokens=STEPS * BATCH * LENGTH, schedule="wsd", decay_share=DECAY / STEPS, watch={"evaluations": 0}
    )


@pytest.fixture(scope="module")
def student(wsd: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that training, without a teacher."""
    folder = tmp_path_factory.mktemp("student") / "pretrain"
    pretrain(folder, wsd, tokens_dir, tokenizer_dir)
    return folder


@pytest.fixture
def run_distill(tokens_dir: Path, tokenizer_dir: Path, trained: Path, student: Path) -> Distill:
    """Takes the student up where its rate begins to fall, with a teacher of more layers, on the same tokenizer."""

    def run_distill(folder: Path, preset: Preset | None = None, restart: bool = False, **settings: Any) -> Manifest:
        start = settings.pop("start", stable_checkpoint(student))
        cache, teacher = settings.pop("cache", None), settings.pop("teacher", trained)
        preset = (preset or continued(start, None)).with_changes({"distill": settings})
        return distill(folder, preset, tokens_dir, tokenizer_dir, teacher, restart=restart, start=start, cache=cache)

    return run_distill


@pytest.fixture(scope="module")
def filled(
    student: Path, trained: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A cache of the teacher's targets, and what was said while it was made."""
    cache, said = tmp_path_factory.mktemp("cache"), list[str]()
    start = stable_checkpoint(student)
    folder = tmp_path_factory.mktemp("cached") / "distill"
    preset = continued(start, None)
    distill(folder, preset, tokens_dir, tokenizer_dir, trained, say=said.append, start=start, cache=cache)
    return cache, said


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics.read(folder) if "loss" in row]


def weights(folder: Path) -> bytes:
    return (found(folder)[-1] / "model.safetensors").read_bytes()


def test_the_checkpoint_before_the_decay_stays(student: Path) -> None:
    assert [step_of(path) for path in found(student)] == [STEPS - DECAY, STEPS]
    assert stable_checkpoint(student).name == f"checkpoint-{STEPS - DECAY}"


def test_without_weight_of_the_teacher_it_is_the_training_itself(run_distill: Distill, student: Path, tmp_path: Path) -> None:
    run_distill(tmp_path / "distill", alpha=0.0)
    ours, theirs = rows(tmp_path / "distill"), rows(student)[-DECAY:]
    assert len(ours) == DECAY
    for key in ("step", "loss", "learning_rate", "gradient_norm", "batch_crc32"):
        assert [row[key] for row in ours] == [row[key] for row in theirs], key
    assert weights(tmp_path / "distill") == weights(student)


def test_the_teacher_is_heard_in_the_decay_only(run_distill: Distill, wsd: Preset, student: Path, tmp_path: Path) -> None:
    manifest = run_distill(tmp_path / "distill", wsd, start=None)
    logged = rows(tmp_path / "distill")
    assert [row["step"] for row in logged if "kl" in row] == list(range(STEPS - DECAY + 1, STEPS + 1))
    assert manifest.counts["taught_from_step"] == STEPS - DECAY
    # until then it is the training without a teacher
    assert [row["loss"] for row in logged[: STEPS - DECAY]] == [row["loss"] for row in rows(student)[: STEPS - DECAY]]
    assert logged[-1]["loss"] != rows(student)[-1]["loss"]


def test_in_all_of_the_training_if_asked(run_distill: Distill, wsd: Preset, tmp_path: Path) -> None:
    preset = wsd.with_training(schedule="cosine", tokens=3 * BATCH * LENGTH)
    with pytest.raises(UserError, match=r"schedule cosine .* has no decay phase"):
        run_distill(tmp_path / "distill", preset, start=None)
    run_distill(tmp_path / "distill", preset, start=None, phase="all")
    assert [row["step"] for row in rows(tmp_path / "distill") if "kl" in row] == [1, 2, 3]


def test_cached_is_live(run_distill: Distill, tmp_path: Path) -> None:
    live, cached = tmp_path / "live", tmp_path / "cached"
    run_distill(live, alpha=0.7, temperature=1.5, top_k=16)
    run_distill(cached, alpha=0.7, temperature=1.5, top_k=16, cache=tmp_path / "cache")
    for ours, theirs in zip(rows(cached), rows(live), strict=True):
        assert ours["batch_crc32"] == theirs["batch_crc32"]
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=2e-3)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.mark.parametrize("cached", [False, True])
def test_killed_it_resumes_bit_for_bit(
    run_distill: Distill, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    cache = tmp_path / "cache" if cached else None
    restless = continued(stable_checkpoint(student), None).with_training(watch={"checkpoint_seconds": 1e-6})
    run_distill(tmp_path / "whole", cache=cache)
    update = Engine.update

    def killed(engine: Engine, share: float) -> Any:
        if len(rows(tmp_path / "killed")) == 3:
            raise RuntimeError
        return update(engine, share)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Engine, "update", killed)
        run_distill(tmp_path / "killed", restless, cache=cache)
    assert len(found(tmp_path / "killed")) == 2
    run_distill(tmp_path / "killed", restless, cache=cache)
    for name in ("step", "loss", "kl", "gradient_norm", "batch_crc32"):
        assert [row[name] for row in rows(tmp_path / "killed")] == [row[name] for row in rows(tmp_path / "whole")], name
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_what_a_teacher_said_is_not_asked_again(run_distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_cache, "SHARD_BYTES", 70_000)  # 4 samples of 17 KB
    cache, read = tmp_path / "cache", 0
    ask = Teacher.__call__

    def counted(teacher: Teacher, ids: Any, *others: Any) -> Any:
        nonlocal read
        if read == 10:
            raise KeyboardInterrupt
        read += len(ids)
        return ask(teacher, ids, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Teacher, "__call__", counted)
        run_distill(tmp_path / "one", cache=cache)
    shards = sorted(path.name for path in cache.glob("*.npy"))
    assert shards == ["targets-000000048-000000052.npy", "targets-000000052-000000056.npy"]
    # the same command makes the others, and only them
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    run_distill(tmp_path / "one", cache=cache)
    assert len(list(cache.glob("*.npy"))) == DECAY
    # another distillation on the same data finds all of them, though it looks at fewer
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "__call__", lambda *_: pytest.fail("the teacher was asked again"))
        run_distill(tmp_path / "two", cache=cache, alpha=0.2)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in cache.iterdir()}.items()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"distill": {"temperature": 2.0}}, r"temperature 1\.0 → 2\.0"),
        ({"distill": {"top_k": 3}}, "top_k 64 → 3"),
        ({"pretrain": {"fim": {"rate": 0.1}}}, r"fim\.rate 0\.5 → 0\.1"),
        ({"pretrain": {"seed": 7}}, "seed 0 → 7"),
    ],
)
def test_a_cache_of_something_else_is_refused(
    run_distill: Distill, filled: tuple[Path, list[str]], student: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    preset = continued(stable_checkpoint(student), None).with_changes(changes)
    with pytest.raises(UserError, match=rf"holds what a teacher said of something else \({named}\)") as error:
        run_distill(tmp_path / "distill", preset, cache=filled[0])
    assert "--cache" in error.value.fix


@pytest.mark.parametrize("damage", ["half", "one byte", "missing", "other data"])
def test_a_damaged_cache_is_named(run_distill: Distill, filled: tuple[Path, list[str]], tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(filled[0], cache)
    (shard,) = cache.glob("*.npy")
    if damage == "half":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    elif damage == "one byte":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    elif damage == "missing":
        shard.unlink()
    else:
        content = np.load(shard)
        content["crc32"] += 1
        np.save(shard, content)
        shard.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(shard)}), encoding="utf-8")
    expected = "is not the one that the teacher read" if damage == "other data" else f"{shard.name} is damaged"
    with pytest.raises(UserError, match=expected):
        run_distill(tmp_path / "distill", cache=cache)


def test_the_size_of_a_cache_is_told_beforehand(filled: tuple[Path, list[str]]) -> None:
    cache, said = filled
    size = sum(path.stat().st_size for path in cache.glob("*.npy"))
    assert any(f"take {size / 1e6:.1f} MB of the" in line for line in said)


def test_a_disk_without_room_for_the_targets(run_distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=400_000))
    with pytest.raises(UserError, match=r"take 0\.5 MB, .* has room for 0\.4 MB"):
        run_distill(tmp_path / "distill", cache=tmp_path / "cache")


@pytest.fixture
def stranger(trained: Path, tmp_path: Path) -> Path:
    """The teacher, as if it had been trained with another tokenizer."""
    folder = tmp_path / "stranger"
    shutil.copytree(trained, folder)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    settings["inputs"]["tokenizer"] = "0" * 64
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_a_teacher_that_does_not_fit_is_refused(run_distill: Distill, stranger: Path, student: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained with another tokenizer"):
        run_distill(tmp_path / "distill", teacher=stranger)
    (stranger / "settings.json").unlink()
    with pytest.raises(UserError, match="does not tell which tokenizer it was trained with"):
        run_distill(tmp_path / "distill", teacher=found(stranger)[-1])
    with pytest.raises(UserError, match="holds no checkpoint; give --teacher"):
        run_distill(tmp_path / "distill", teacher=tmp_path)
    preset = load_preset(str(student / "preset.yaml"))
    model = preset.model.model_copy(update={"context_length": 1024})
    with pytest.raises(UserError, match="sees 512 tokens at once, the student 1,024"):
        run_distill(tmp_path / "longer", preset.model_copy(update={"model": model}), start=None)
    assert not (tmp_path / "distill").exists()


def test_what_cannot_be_taken_up_is_refused(run_distill: Distill, student: Path, trained: Path, tmp_path: Path) -> None:
    last = found(student)[-1]
    with pytest.raises(UserError, match=r"checkpoint after step 20, and the run ends after step 20.*--tokens"):
        run_distill(tmp_path / "distill", start=last)
    with pytest.raises(UserError, match="holds no checkpoint from before its learning rate fell"):
        stable_checkpoint(trained)
    with pytest.raises(UserError, match="is no checkpoint in the folder of its training"):
        continued(tmp_path / "checkpoint-3", None)
    # for some tokens more it can, over which the rate falls anew
    preset = continued(last, 4 * BATCH * LENGTH)
    run_distill(tmp_path / "distill", preset, start=last)
    logged = rows(tmp_path / "distill")
    assert [row["step"] for row in logged if "kl" in row] == [21, 22, 23, 24]
    assert logged[0]["learning_rate"] == preset.pretrain.learning_rate > logged[-1]["learning_rate"]


def test_a_finished_distillation_is_not_run_again(run_distill: Distill, tmp_path: Path) -> None:
    folder = tmp_path / "distill"
    first = run_distill(folder)
    assert run_distill(folder, cache=tmp_path / "cache").created == first.created
    with pytest.raises(UserError, match=r"other settings \(distill\.alpha 0\.5 → 0\.9\)"):
        run_distill(folder, alpha=0.9)
    assert run_distill(folder, restart=True, alpha=0.9).counts["steps"] == STEPS


@pytest.mark.e2e
def test_a_student_with_a_teacher_learns_faster(
    minute_preset: Path, trained: Path, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The teacher has three times the tokens behind it."""
    watch = {"evaluations": 1, "evaluation_places": 0, "evaluation_tokens": 30_000, "log_every": 20}
    preset = load_preset(str(minute_preset)).with_training(
        seed=1, tokens=60 * 8 * LENGTH, batch_size=8, engine={"micro_batch_size": 8}, watch=watch
    )
    alone = pretrain(tmp_path / "alone", preset, tokens_dir, tokenizer_dir).counts["valid_bits_per_byte"]
    taught_preset = preset.with_changes({"distill": {"phase": "all"}})
    taught = distill(tmp_path / "taught", taught_preset, tokens_dir, tokenizer_dir, trained).counts["valid_bits_per_byte"]
    assert taught < alone - 0.01
