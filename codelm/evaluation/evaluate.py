"""The stage `<run>/evaluate`: what a model is worth on the validation split, and what others are on the very same places."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from codelm.config.settings import Settings
from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.infilling import infilling_places
from codelm.evaluation.measures import Estimate, edit_similarity, is_exact, ratio, share
from codelm.evaluation.places import Place, draw_places
from codelm.evaluation.systems import System
from codelm.progress import Progress, silent
from codelm.stage import Manifest, Stage, file_sha256

FILE = "scores.json"
ANSWERS = "answers.jsonl"
PLOT = "scores.png"
KINDS = {"whole_line": True, "end_of_line": False}
"""Kind of place → what `draw_places` calls it."""
INFILLING = "infilling"
"""The kind of places that a user's set gives."""


class EvaluateConfig(Settings):
    """How much is looked at."""

    seed: int = Field(0, ge=0, description="draws the places")
    tokens: int = Field(100_000, gt=0, description="of the validation split, for bits per byte")
    places: int = Field(256, gt=0, description="cursors for whole lines, and as many for ends of lines")


def evaluate(
    folder: Path,
    config: EvaluateConfig,
    systems: Sequence[System],
    held_out: HeldOut,
    progress: Progress = silent,
    infilling: Path | None = None,
) -> Manifest:
    """Measures systems on the same places and the same text; the first is the one that it is about.

    infilling: a set of places besides, see `infilling_places`.

    Writes scores.json (what `scores_of` returns, of each), answers.jsonl (what was to be written at each place, and what each
    system wrote) and scores.png. The manifest's counts are the first one's bits_per_byte, exact_match (ends of lines),
    whole_line_match and edit_similarity (both kinds of places), each None where there is nothing to measure, and places.
    """
    inputs = {"corpus": held_out.fingerprint} | {system.name: system.identity for system in systems}
    own = {INFILLING: infilling_places(infilling)} if infilling else {}
    if infilling:
        inputs[INFILLING] = file_sha256(infilling)
    stage = Stage(folder, config, inputs, config.seed, libraries=("numpy", "rapidfuzz"))
    if manifest := stage.done():
        return manifest
    with stage.build() as temporary:
        progress(0, None, note="drawing the places")
        texts = held_out.texts
        places = {kind: draw_places(texts, config.places, config.seed, whole) for kind, whole in KINDS.items()} | own
        scores, answers = [], {}
        for done, system in enumerate(systems):
            progress(done, len(systems), note=system.name)
            found, answers[system.name] = scores_of(system, config, held_out, places)
            scores.append(found)
        progress(len(systems), len(systems))
        count = {kind: len(drawn) for kind, drawn in places.items()}
        result = {"held_out": held_out.counts() | {"places": count, "tokens": config.tokens}, "systems": scores}
        (temporary / FILE).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_answers(temporary / ANSWERS, places, answers)
        plot(result, temporary / PLOT)
        stage.counts = summary(scores[0]) | {"places": count["end_of_line"]}
    return Manifest.read(folder)


def scores_of(
    system: System, config: EvaluateConfig, held_out: HeldOut, places: dict[str, list[Place]]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The scores of a system, and its lines by kind of place.

    The scores: "name"; "bits_per_byte", None if it knows none; for each kind of places "exact_match", "edit_similarity" and the
    median "milliseconds" of a completion, or None where no place is. Measured values are {"value", "low", "high"}, the latter
    two with 95 % confidence: resampled by windows of text, by Wilson's formula, resampled by places.
    """
    bits = system.bits(held_out, config.tokens)
    scores: dict[str, Any] = {"name": system.name, "bits_per_byte": bits and rounded(ratio(*bits))}
    lines = {}
    for kind, drawn in places.items():
        written = system.write(drawn)
        lines[kind] = written.lines
        hits = list(map(is_exact, written.lines, drawn))
        similarities = list(map(edit_similarity, written.lines, drawn))
        scores[kind] = drawn and {
            "exact_match": rounded(share(hits)),
            "edit_similarity": rounded(ratio(similarities, [1] * len(drawn))),
            "milliseconds": round(statistics.median(written.milliseconds), 2),
        }
        scores[kind] = scores[kind] or None
    return scores, lines


def rounded(estimate: Estimate) -> dict[str, float]:
    """An estimate to four digits, for JSON."""
    return {name: round(value, 4) for name, value in estimate._asdict().items()}


def summary(scores: dict[str, Any]) -> dict[str, Any]:
    """The figures by which a model is known, from its scores."""
    kinds = [scores[kind] for kind in KINDS if scores[kind]]
    similarities = [kind["edit_similarity"]["value"] for kind in kinds]
    return {
        "bits_per_byte": scores["bits_per_byte"] and scores["bits_per_byte"]["value"],
        "exact_match": scores["end_of_line"] and scores["end_of_line"]["exact_match"]["value"],
        "whole_line_match": scores["whole_line"] and scores["whole_line"]["exact_match"]["value"],
        "edit_similarity": round(statistics.mean(similarities), 4) if similarities else None,
    }


def write_answers(path: Path, places: dict[str, list[Place]], answers: dict[str, dict[str, list[str]]]) -> None:
    """One JSON object a place: its kind, the line up to the cursor, what stands there, and what each system wrote."""
    with path.open("w", encoding="utf-8") as file:
        for kind, drawn in places.items():
            for number, place in enumerate(drawn):
                written = {name: lines[kind][number] for name, lines in answers.items()}
                before = place.prefix.rpartition("\n")[2]
                row = {"kind": kind, "before": before, "rest": place.rest, "written": written}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def plot(result: dict[str, Any], path: Path) -> None:
    """Exact match of both kinds of places and bits per byte, a bar for each system, with their confidence intervals."""
    from matplotlib.figure import Figure

    systems = result["systems"][::-1]  # the first one on top
    figure = Figure(figsize=(10, 1.5 + 0.6 * len(systems)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for kind, shift, color in (("whole_line", 0.2, "tab:blue"), ("end_of_line", -0.2, "tab:orange")):
        bars(left, systems, lambda one, kind=kind: one[kind] and one[kind]["exact_match"], shift, color, kind.replace("_", " "))
    bars(right, systems, lambda one: one["bits_per_byte"], 0, "tab:gray", None)
    left.set(xlabel="exact match", yticks=range(len(systems)), yticklabels=[one["name"] for one in systems])
    left.xaxis.set_major_formatter("{x:.0%}")
    right.set(xlabel="bits per byte, less is better")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def bars(axes: Any, systems: list[dict[str, Any]], of: Any, shift: float, color: str, label: str | None) -> None:
    """A horizontal bar with its interval for each system that has the measure."""
    found = [(row, estimate) for row, one in enumerate(systems) if (estimate := of(one))]
    values = [estimate["value"] for _, estimate in found]
    errors = [[abs(estimate["value"] - estimate[end]) for _, estimate in found] for end in ("low", "high")]
    height = 0.4 if shift else 0.5
    axes.barh([row + shift for row, _ in found], values, height, xerr=errors, color=color, label=label, capsize=3)
