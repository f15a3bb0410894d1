"""A run on the tokenizer of another one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codelm.config.preset import TokenizerConfig
from codelm.corpus.tokens import encode
from codelm.errors import UserError
from codelm.stage import Manifest
from codelm.tokenizer import FILE, find, fingerprint_of, take, train


def test_it_is_found_from_whatever_belongs_to_it(run: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    expected = tokenizer_dir / FILE
    checkpoint = run / "pretrain" / "checkpoint-7"  # need not be there
    for path in (expected, tokenizer_dir, run, checkpoint):
        assert find(path) == expected
    with pytest.raises(UserError, match=r"no tokenizer\.json there"):
        find(tmp_path)


def test_what_is_taken_is_the_same_to_later_stages(tokenizer_dir: Path, corpus: Path, tokens_dir: Path, tmp_path: Path) -> None:
    manifest = take(tmp_path / "tokenizer", tokenizer_dir / FILE)
    trained = Manifest.read(tokenizer_dir)
    assert manifest.fingerprint == trained.fingerprint == fingerprint_of(tokenizer_dir / FILE)
    assert manifest.counts == {key: trained.counts[key] for key in ("vocab_size", "unused")}
    assert encode(tmp_path / "tokens", corpus, tmp_path / "tokenizer").fingerprint == Manifest.read(tokens_dir).fingerprint
    assert take(tmp_path / "tokenizer", tokenizer_dir / FILE) == manifest
    # a run's own tokenizer stays as it was trained
    assert take(tokenizer_dir, tmp_path / "tokenizer" / FILE) == trained


def test_another_one_is_never_overwritten(tokenizer_dir: Path, corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    before = train(other, TokenizerConfig(vocab_size=512), corpus)
    with pytest.raises(UserError, match=r"holds another tokenizer \(512 entries\)"):
        take(other, tokenizer_dir / FILE)
    assert Manifest.read(other) == before


def test_what_is_no_tokenizer_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    values = json.loads((tokenizer_dir / FILE).read_text(encoding="utf-8"))
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<|fim_middle|>"]
    (tmp_path / FILE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=r"not a usable tokenizer \(the vocabulary has no <\|fim_middle\|>"):
        take(tmp_path / "tokenizer", tmp_path / FILE)
    assert not (tmp_path / "tokenizer").exists()


def test_the_command(tokenizer_dir: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(corpus)
    command = [sys.executable, "-m", "cli.main", "tokenizer", "encode", "--run", tmp_path, "--tokenizer", tokenizer_dir.parent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1,024 entries" in done.stdout
    assert {"tokenizer", "tokens"} <= {path.name for path in tmp_path.iterdir()}
