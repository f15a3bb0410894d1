import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.request import CompletionRequest
from serving.upstream_wire import Api, Piece, WireError, call, read_event

CASES = yaml.safe_load(Path(__file__).with_name("upstream_events.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_events(case: dict[str, Any]) -> None:
    api, wanted = Api(case["api"]), case["piece"]
    if isinstance(wanted, str):
        with pytest.raises(WireError, match=wanted):
            read_event(api, case["line"])
        return
    expected = wanted and Piece(**(wanted | {"logprobs": tuple(wanted.get("logprobs", ()))}))
    assert read_event(api, case["line"]) == expected


@given(st.sampled_from(Api), st.text())
def test_nonsense_is_an_error_and_never_a_crash(api: Api, text: str) -> None:
    for line in (text, f"data: {text}"):
        with contextlib.suppress(WireError):
            read_event(api, line)


def test_what_each_is_asked() -> None:
    request = CompletionRequest(prefix="a", suffix="b", seed=3)
    path, body = call(Api.LLAMA_SERVER, "m", [1, 2], request, 9)
    assert (path, body["prompt"], body["n_predict"], body["cache_prompt"]) == ("/completion", [1, 2], 9, True)
    path, body = call(Api.VLLM, "m", [1, 2], request, 9)
    assert (path, body["prompt"], body["max_tokens"], body["model"]) == ("/v1/completions", [1, 2], 9, "m")
    assert "suffix" not in body
    path, body = call(Api.OPENAI, "m", "a", request, 9)
    assert (path, body["prompt"], body["suffix"], body["seed"]) == ("/v1/completions", "a", "b", 3)
