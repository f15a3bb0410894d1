"""The evaluation stage: systems on the same places and the same text."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.evaluation import held_out as module
from codelm.evaluation.baselines import Ngram, SimilarLine
from codelm.evaluation.evaluate import ANSWERS, FILE, PLOT, EvaluateConfig, evaluate
from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.measures import is_exact
from codelm.evaluation.places import Place
from codelm.evaluation.systems import Bits, TrainedModel, Written
from codelm.tokenizer import FILE as TOKENIZER_FILE
from codelm.tokenizer import Tokenizer, take

CONFIG = EvaluateConfig(tokens=2_048, places=12)


@pytest.fixture
def held_out(corpus: Path, tokens_dir: Path) -> HeldOut:
    return HeldOut(corpus, tokens_dir)


@pytest.fixture(scope="module")
def model(checkpoint: Path, tokenizer_dir: Path) -> TrainedModel:
    return TrainedModel("tiny", checkpoint, tokenizer_dir / TOKENIZER_FILE)


class Oracle:
    """Writes what stands there; every other time if it is a weak one."""

    def __init__(self, name: str, weak: bool) -> None:
        self.name, self.identity, self.weak = name, name, weak

    def write(self, places: Sequence[Place]) -> Written:
        return Written.together(["" if self.weak and i % 2 else place.rest for i, place in enumerate(places)], 0.024)

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        return None


def test_all_are_measured_on_the_same_places(
    model: TrainedModel, held_out: HeldOut, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    systems = [model, Ngram(tokens_dir, tokenizer_dir, 512), SimilarLine(), Oracle("strong", False), Oracle("weak", True)]
    folder = tmp_path / "evaluate"
    manifest = evaluate(folder, CONFIG, systems, held_out)
    result = json.loads((folder / FILE).read_text(encoding="utf-8"))
    scores = {one["name"]: one for one in result["systems"]}
    assert list(scores) == ["tiny", "5-gram", "most similar earlier line", "strong", "weak"]
    assert result["held_out"]["places"] == {"whole_line": 12, "end_of_line": 12}
    assert result["held_out"]["files"] == len(held_out.texts)
    assert scores["strong"]["whole_line"]["exact_match"]["value"] == 1
    assert scores["weak"]["end_of_line"]["exact_match"] == {"value": 0.5, "low": 0.2538, "high": 0.7462}
    assert scores["weak"]["end_of_line"]["milliseconds"] == 2
    for name in ("tiny", "5-gram"):
        bits = scores[name]["bits_per_byte"]
        assert 0 < bits["low"] <= bits["value"] <= bits["high"] < 8
    assert scores["strong"]["bits_per_byte"] is None
    answers = [json.loads(line) for line in (folder / ANSWERS).read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 24
    for name, one in scores.items():
        for kind in ("whole_line", "end_of_line"):
            rows = [row for row in answers if row["kind"] == kind]
            hits = sum(is_exact(row["written"][name], Place("", row["rest"], "")) for row in rows)
            assert one[kind]["exact_match"]["value"] == pytest.approx(hits / 12, abs=1e-4)
    assert (folder / PLOT).read_bytes().startswith(b"\x89PNG")
    assert manifest.counts["bits_per_byte"] == scores["tiny"]["bits_per_byte"]["value"]
    assert manifest.counts["exact_match"] == scores["tiny"]["end_of_line"]["exact_match"]["value"]
    assert manifest.counts["whole_line_match"] == scores["tiny"]["whole_line"]["exact_match"]["value"]
    assert manifest.counts["places"] == 12


def test_a_set_of_others_is_one_more_kind_of_place(held_out: HeldOut, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    row = {"prompt": "a = 1\n", "canonical_solution": "b = 2\n", "suffix": ""}
    path.write_text((json.dumps(row) + "\n") * 3, encoding="utf-8")
    manifest = evaluate(tmp_path / "evaluate", CONFIG, [Oracle("weak", True)], held_out, infilling=path)
    result = json.loads((tmp_path / "evaluate" / FILE).read_text(encoding="utf-8"))
    assert result["held_out"]["places"]["infilling"] == 3
    assert result["systems"][0]["infilling"]["exact_match"]["value"] == 0.6667
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert evaluate(tmp_path / "evaluate", CONFIG, [Oracle("weak", True)], held_out, infilling=path).key != manifest.key


def test_it_is_done_once_for_each_question(held_out: HeldOut, tmp_path: Path) -> None:
    folder, one = tmp_path / "evaluate", Oracle("one", False)
    first = evaluate(folder, CONFIG, [one], held_out)
    assert evaluate(folder, CONFIG, [one], held_out) == first
    assert evaluate(folder, CONFIG, [one, SimilarLine()], held_out).key != first.key
    assert evaluate(folder, CONFIG.model_copy(update={"seed": 1}), [one], held_out).key != first.key
    one.identity = "with other weights"
    assert evaluate(folder, CONFIG, [one], held_out).key != first.key


def test_a_corpus_without_a_line_to_complete(model: TrainedModel, corpus: Path, tokens_dir: Path, tmp_path: Path) -> None:
    held_out = HeldOut(corpus, tokens_dir)
    held_out.rows = [{**row, "content": "}\n"} for row in held_out.rows]  # type: ignore[misc]
    counts = evaluate(tmp_path / "evaluate", CONFIG, [model], held_out).counts
    assert counts["exact_match"] is counts["whole_line_match"] is counts["edit_similarity"] is None
    assert counts["places"] == 0


def test_what_is_no_checkpoint(tmp_path: Path, tokenizer_dir: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        TrainedModel("x", tmp_path / "nowhere", tokenizer_dir / TOKENIZER_FILE)


def test_another_tokenizer_is_given_the_same_text(
    held_out: HeldOut, tiny_preset: Preset, tokenizer_dir: Path, tokens_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    from codelm.tokenizer import train

    own = held_out.shard(Tokenizer(tokenizer_dir / TOKENIZER_FILE))
    assert own.place == (tokens_dir, "valid"), "what the run has encoded is not encoded again"
    train(tmp_path / "tokenizer", tiny_preset.tokenizer.model_copy(update={"vocab_size": 600}), corpus)
    other = Tokenizer(tmp_path / "tokenizer" / TOKENIZER_FILE)
    shard = held_out.shard(other)
    assert len(shard) == len(own)
    assert shard.text_bytes == own.text_bytes
    assert other.decode(shard.ids[: shard.offsets[1]].tolist()).decode() == held_out.texts[0]
    copy = take(tmp_path / "copy", tokenizer_dir / TOKENIZER_FILE)
    assert copy.counts["vocab_size"] == 1_024
    assert held_out.shard(Tokenizer(tmp_path / "copy" / TOKENIZER_FILE)) is own, "known by what is in it"


def test_of_a_large_split_a_part_is_read(corpus: Path, tokens_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HeldOut(corpus, tokens_dir).counts()
    monkeypatch.setattr(module, "MAX_BYTES", whole["bytes"] // 2)
    part = HeldOut(corpus, tokens_dir)
    assert 0 < len(part.texts) < whole["files"]
    assert part.texts == HeldOut(corpus, tokens_dir).texts
