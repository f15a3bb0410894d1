"""Whether a completion is worth showing: the probability that it is right, from what the model thought while it wrote.

A logistic regression over a few dozen features, with a curve over it that makes its scores probabilities. `codelm calibrate`
fits both on held-out files (`codelm.evaluation.calibration`) and stores them in the bundle; here they are applied.
"""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.request import Completion, CompletionRequest, StopReason, Timings, TriggerKind

SCHEMA = 1
NEARBY = 4096
"""Characters before and after the cursor in which names are looked for."""
WORDS = re.compile(r"[^\W\d]\w+")
LANGUAGES = {
    "python": "python", "py": "python", "pyi": "python",
    "javascript": "javascript", "javascriptreact": "javascript", "js": "javascript", "jsx": "javascript", "mjs": "javascript",
    "typescript": "typescript", "typescriptreact": "typescript", "ts": "typescript", "tsx": "typescript",
    "java": "java", "go": "go", "rust": "rust", "rs": "rust",
    "c": "c", "h": "c", "cpp": "cpp", "cc": "cpp", "cxx": "cpp", "hpp": "cpp",
    "shellscript": "shell", "sh": "shell", "bash": "shell",
}  # fmt: skip
"""Language id of an editor, or extension → language with a feature of its own."""
HASH_COMMENTS = {"python", "shell"}
UNKNOWN = math.nan
"""A feature that nothing is known of: it counts as much as it does on average."""


class Gate(BaseModel):
    """A fitted gate. weights belong to the features of the same names, after (value − mean) / scale.

    scores, probabilities: the curve that makes a score a probability, linear between its points and level outside.
    thresholds, precisions, coverages: what showing only completions of at least that probability gave on held-out files:
    the share of those shown that are right, and the share shown.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    schema_version: int = Field(SCHEMA, ge=SCHEMA, le=SCHEMA)
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    scores: tuple[float, ...] = Field(min_length=1)
    probabilities: tuple[float, ...]
    thresholds: tuple[float, ...] = Field(min_length=1)
    precisions: tuple[float, ...]
    coverages: tuple[float, ...]
    places: int = Field(0, ge=0, description="that it was fitted on")

    @model_validator(mode="after")
    def _fits(self) -> "Gate":
        known = set(FEATURES)
        if unknown := [name for name in self.features if name not in known]:
            raise ValueError(f"unknown features {', '.join(unknown)}")
        rows = ((self.features, self.mean, self.scale, self.weights), (self.scores, self.probabilities),
                (self.thresholds, self.precisions, self.coverages))  # fmt: skip
        if any(len(column) != len(columns[0]) for columns in rows for column in columns):
            raise ValueError("lists of different lengths")
        rising = (self.scores, self.probabilities, self.thresholds, self.precisions)
        if any(later < earlier for column in rising for earlier, later in pairwise(column)):
            raise ValueError("a list that does not rise")
        if not all(0 <= value <= 1 for column in (self.probabilities, self.precisions, self.coverages) for value in column):
            raise ValueError("a share outside 0 to 1")
        if min(self.scale, default=1) <= 0:
            raise ValueError("a scale that is not positive")
        return self

    @classmethod
    def from_json(cls, text: str) -> "Gate":
        """Raises ValueError if the text is no gate that this version understands."""
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            raise ValueError("; ".join(item["msg"] for item in error.errors())) from error

    def score(self, values: Mapping[str, float]) -> float:
        """The regression's score of a completion's features: any number, higher is better."""
        total = self.bias
        for name, mean, scale, weight in zip(self.features, self.mean, self.scale, self.weights, strict=True):
            value = values.get(name, UNKNOWN)
            if math.isfinite(value):
                total += weight * (value - mean) / scale
        return total

    def probability(self, values: Mapping[str, float]) -> float:
        """The probability that a completion with these features is right, 0 to 1."""
        return interpolated(self.score(values), self.scores, self.probabilities)

    def threshold(self, precision: float) -> float | None:
        """The least probability to show, so that the share of right ones among those shown is `precision`.

        Never falls when `precision` rises. None if it is out of this model's reach.
        """
        return next((at for at, reached in zip(self.thresholds, self.precisions, strict=True) if reached >= precision), None)

    @property
    def best_precision(self) -> float:
        """The highest that can be asked for."""
        return self.precisions[-1]

    def judge(self, request: CompletionRequest, completion: Completion, precision: float | None) -> Completion:
        """The completion with its probability, and hidden if that is too low for the precision that is asked for.

        precision: None hides nothing. What was asked for by the user is never hidden.
        """
        probability = self.probability(features_of(request, completion))
        hidden_by = completion.hidden_by
        if precision is not None and request.trigger is TriggerKind.AUTOMATIC:
            least = self.threshold(precision)
            if least is None or probability < least:
                hidden_by = hidden_by or "precision"
        return replace(completion, right=probability, hidden_by=hidden_by)


def interpolated(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The value at a place of a curve through points with rising xs; level outside, and what comes later counts at a step."""
    right = bisect_right(xs, at)
    if right == 0:
        return ys[0]
    if right == len(xs):
        return ys[-1]
    low, high = xs[right - 1], xs[right]
    return ys[right - 1] + (ys[right] - ys[right - 1]) * min(1.0, (at - low) / (high - low))


@dataclass(frozen=True)
class Line:
    """What the cursor's line says of the place."""

    before: str
    after: str
    language: str

    @property
    def inside(self) -> str:
        """ "comment", "string" or "": by the marks before the cursor on the line, which is nearly always right."""
        marker = "#" if self.language in HASH_COMMENTS else "//"
        quote, at = "", 0
        while at < len(self.before):
            char = self.before[at]
            if quote:
                at += char == "\\"
                quote = "" if char == quote else quote
            elif self.before.startswith(marker, at):
                return "comment"
            elif char in "\"'`":
                quote = char
            at += 1
        block = self.language not in HASH_COMMENTS and self.before.lstrip().startswith(("*", "/*"))
        return "string" if quote else "comment" if block else ""


def language_of(request: CompletionRequest) -> str:
    """The language by the editor's word or the path's extension; "" for any other."""
    extension = PurePosixPath(request.path or "").suffix[1:]
    return LANGUAGES.get((request.language or extension).lower(), "")


def features_of(request: CompletionRequest, completion: Completion) -> dict[str, float]:
    """What the gate looks at, by name: see FEATURES."""
    line = Line(request.prefix.rpartition("\n")[2], request.suffix.partition("\n")[0], language_of(request))
    values = {
        **thoughts(completion),
        **place_features(line),
        **text_features(request, completion.text),
    }
    values |= {f"{one}×{other}": values[one] * values[other] for one, other in CROSSES}
    return values


def thoughts(completion: Completion) -> dict[str, float]:
    """What the model thought, in natural logarithms and in probabilities, and how it came to the end."""
    logprobs = [max(-30.0, one) if math.isfinite(one) else -30.0 for one in completion.logprobs] or [-30.0]
    end = completion.end_logprob
    drafted = completion.timings.drafted_tokens
    return {
        "first": logprobs[0],
        "lowest": min(logprobs),
        "mean": math.fsum(logprobs) / len(logprobs),
        "sum": max(-60.0, math.fsum(logprobs)),
        "last": logprobs[-1],
        "end": UNKNOWN if end is None or not math.isfinite(end) else max(-30.0, end),
        "p_first": math.exp(min(0.0, logprobs[0])),
        "p_lowest": math.exp(min(0.0, *logprobs)),
        "p_all": math.exp(min(0.0, math.fsum(logprobs))),
        "unsure": sum(one < math.log(0.5) for one in logprobs),
        "tokens": math.log1p(len(completion.logprobs)),
        "eos": float(completion.stop_reason is StopReason.EOS),
        "cut": float(completion.stop_reason in (StopReason.LENGTH, StopReason.DEADLINE)),
        "accepted": completion.timings.accepted_tokens / drafted if drafted else UNKNOWN,
        "cache": UNKNOWN if completion.cache_weight is None else completion.cache_weight,
    }


def place_features(line: Line) -> dict[str, float]:
    """Where the cursor stands."""
    before = line.before
    inside = line.inside
    return {
        "column": math.log1p(len(before.strip())),
        "indent": math.log1p(len(before) - len(before.lstrip())),
        "new_line": float(not before.strip()),
        "in_word": float(before[-1:].isalnum() or before.endswith("_")),
        "after_dot": float(before.endswith((".", "->", "::"))),
        "after_open": float(before.endswith(("(", "[", "{"))),
        "after_blank": float(before[-1:].isspace()),
        "rest": float(bool(line.after.strip())),
        "comment": float(inside == "comment"),
        "string": float(inside == "string"),
        **{f"language {name}": float(line.language == name) for name in sorted(set(LANGUAGES.values()))},
    }


def text_features(request: CompletionRequest, text: str) -> dict[str, float]:
    """What was written."""
    near = set(WORDS.findall(request.prefix[-NEARBY:])) | set(WORDS.findall(request.suffix[:NEARBY]))
    whole = re.split(r"\W", request.prefix[-NEARBY:])[-1] + text  # the word that the cursor stands in counts as one
    words = WORDS.findall(whole)
    return {
        "length": math.log1p(len(text.strip())),
        "words": math.log1p(len(words)),
        "new_words": sum(word not in near for word in words) / len(words) if words else 0.0,
        "lines": math.log1p(text.count("\n")),
        "quotes": float(any(mark in text for mark in "\"'`")),
        "digits": float(any(char.isdigit() for char in text)),
        "ends_open": float(text.rstrip().endswith((":", "{", "(", "[", ","))),
        "blank": float(not text.strip()),
    }


CROSSES = (
    ("mean", "length"), ("lowest", "length"), ("sum", "new_line"), ("mean", "new_words"), ("p_all", "in_word"),
    ("p_all", "comment"), ("p_all", "new_line"), ("lowest", "new_words"),
)  # fmt: skip


def _names() -> tuple[str, ...]:
    timings = Timings(prompt_tokens=0, cached_tokens=0, queue_ms=0, prompt_ms=0, predict_ms=0, total_ms=0)
    empty: dict[str, Any] = {"id": "", "text": "", "stop_reason": StopReason.EOS, "logprobs": (), "timings": timings}
    return tuple(features_of(CompletionRequest(prefix=""), Completion(**empty)))


FEATURES = _names()
"""The names of all features, in their order."""
