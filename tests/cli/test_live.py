"""A run on the terminal."""

import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import cli.progress
from cli.live import BRAILLE, RunView, braille, duration, metric
from cli.progress import Display
from codelm.stage import write_atomically


def log(folder: Path, rows: Sequence[dict[str, Any]], mode: str = "a") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open(mode, encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def step(number: int, **values: float) -> dict[str, Any]:
    return {"step": number, "tokens": 1000 * number, "seconds": 2.0 * number, **values}


TRAINED = [
    row
    for number in range(1, 41)
    for row in (
        step(number, loss=8 / number, loss_code=7 / number, bits_per_byte=4 / number, tokens_per_second=500.0, mfu=0.5),
        *([step(number, valid_bits_per_byte=5 / number, valid_exact_match=number / 100)] if number % 10 == 0 else []),
    )
]


def shown(view: RunView, width: int = 80, height: int = 24) -> list[str]:
    """What a terminal of a size would show."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get().splitlines()


def test_what_a_run_shows(tmp_path: Path) -> None:
    assert shown(RunView(tmp_path)) == []
    log(tmp_path, TRAINED)
    for number in (20, 40):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "budget.json").write_text('{"steps": 50, "tokens": 50000}', encoding="utf-8")
    (tmp_path / "best.json").write_text('{"checkpoint": "checkpoint-20", "step": 20}', encoding="utf-8")
    lines = shown(RunView(tmp_path))
    text = "\n".join(lines)
    assert any(ord(character) > BRAILLE for character in lines[0])
    assert "step 40/50  loss 0.200  code 0.175  bits/byte 0.100" in lines
    assert "1.3 min done  500 tokens/s  MFU 50%" in text
    assert "held out at 20: 0.250 bits/byte, 20.0% exact, the best" in lines
    assert "held out at 40: 0.125 bits/byte, 40.0% exact" in lines
    assert "checkpoints 40, 20" in lines


def test_the_view_follows_the_log(tmp_path: Path) -> None:
    view = RunView(tmp_path)
    log(tmp_path, TRAINED[:5])
    assert any("step 5" in line for line in shown(view))
    log(tmp_path, [step(6, loss=0.5)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    assert any("step 6  loss 0.500" in line for line in shown(view))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('ss": 0.25, "tokens": 7000}\n')
    assert any("step 7  loss 0.250" in line for line in shown(view))
    (tmp_path / "metrics.jsonl").rename(tmp_path / "old")  # a resumed run writes its log anew
    log(tmp_path, TRAINED[:3])
    assert any("step 3  loss" in line for line in shown(view))
    (tmp_path / "metrics.jsonl").unlink()
    assert shown(view) == []


def test_what_comes_without_a_row_is_shown_too(tmp_path: Path) -> None:
    log(tmp_path, TRAINED)
    view = RunView(tmp_path)
    assert not any("checkpoints" in line for line in shown(view))
    (tmp_path / "checkpoint-40").mkdir()
    write_atomically(tmp_path / "best.json", '{"checkpoint": "checkpoint-40", "step": 40}')
    assert "held out at 40: 0.125 bits/byte, 40.0% exact, the best" in shown(view)
    assert shown(view)[-1] == "checkpoints 40"


@pytest.mark.parametrize("width", [1, 5, 15, 23, 24, 40, 79, 200])
@pytest.mark.parametrize("height", [1, 5, 24])
def test_it_fits_any_terminal(tmp_path: Path, width: int, height: int) -> None:
    log(tmp_path, TRAINED)
    lines = shown(RunView(tmp_path), width, height)
    assert lines
    assert max(map(len, lines)) <= width
    if width >= 40 and height == 24:
        assert len(lines) < height, "there is room for the bars"


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=200),
    st.integers(1, 60),
    st.integers(1, 10),
)
def test_a_curve_has_its_size_and_a_dot_in_each_column(values: list[float], width: int, height: int) -> None:
    lines, low, high = braille(list(enumerate(values)), width, height)
    assert [len(line) for line in lines] == [width] * height
    assert low <= high
    for column in zip(*lines, strict=True):
        assert any(ord(character) > BRAILLE for character in column)


def test_a_falling_line_falls() -> None:
    lines, low, high = braille([(x, -x) for x in range(100)], 10, 3)
    assert ord(lines[0][0]) > BRAILLE
    assert ord(lines[-1][-1]) > BRAILLE
    assert lines[0][-1] == lines[-1][0] == chr(BRAILLE)
    assert low < high


def test_numbers_in_few_characters() -> None:
    assert [metric(value) for value in (0, 999, 1_500, 2.5e6, 3e9)] == ["0", "999", "1.5k", "2.5M", "3B"]
    assert [duration(value) for value in (5, 90, 7_200, 100_000)] == ["5 s", "1.5 min", "2.0 h", "1.2 d"]


def test_a_stage_shows_its_view_while_it_goes_on(tmp_path: Path) -> None:
    log(tmp_path, TRAINED)
    file = io.StringIO()
    with Display(Console(file=file, width=80, height=30, force_terminal=True, color_system=None)) as display:
        with display.stage("pretrain", RunView(tmp_path)) as progress:
            progress(1, 2, loss="3.1")
            while "step 40" not in file.getvalue():
                time.sleep(0.05)
        file.truncate(0)
        with display.stage("evaluate") as progress:
            progress(1, 2)
            while "evaluate" not in file.getvalue():
                time.sleep(0.05)
        assert "step 40" not in file.getvalue()


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, TRAINED)
    monkeypatch.setattr(cli.progress, "PLAIN_SECONDS", 0)
    file = io.StringIO()
    with Display(Console(file=file, width=80)) as display, display.stage("pretrain", RunView(tmp_path)) as progress:
        progress(0, 4)
        progress(1, 4, loss="3.1", speed="9 tokens/s")
        display.say("a long line, whole " * 9 + "[red]")
    first, second, said, last = file.getvalue().splitlines()
    assert (first, second, last) == ("pretrain …", "pretrain 25%  loss 3.1  speed 9 tokens/s", "pretrain: done")
    assert said.endswith("whole [red]")
