from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.lines import allowed_lines
from serving.request import CompletionRequest, TriggerKind

CASES = yaml.safe_load((Path(__file__).parent / "lines_cases.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case: dict[str, Any]) -> None:
    prefix, suffix = case["at"].split("¦")
    trigger = TriggerKind[case["trigger"].upper()]
    request = CompletionRequest(prefix=prefix, suffix=suffix, language=case["language"], trigger=trigger, max_lines=8)
    assert allowed_lines(request) == case["lines"]


@pytest.mark.parametrize("limit", [None, 1])
def test_never_more_than_the_request_allows(limit: int | None) -> None:
    request = CompletionRequest(prefix="def f():\n    ", suffix="", language="python", max_lines=limit)
    assert allowed_lines(request) == limit
