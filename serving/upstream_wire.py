"""What engines behind a URL are asked and what they stream: llama-server, vLLM, and any with OpenAI's completions.

Formats: llama.cpp tools/server/README.md (`POST /completion`), vLLM's OpenAI-compatible server (`POST /v1/completions`, whose
`prompt` may be token ids), OpenAI's API reference (`prompt` and `suffix`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serving.request import CompletionRequest, StopReason

FINISHED = "[DONE]"


class Api(StrEnum):
    """How an engine is asked."""

    LLAMA_SERVER = "llama-server"
    VLLM = "vllm"
    OPENAI = "openai"
    """Builds its fill-in-the-middle prompts itself."""


class WireError(Exception):
    """What an engine sent is not what it should; the message says what it was."""


@dataclass(frozen=True)
class Piece:
    """One event of a stream: some text with the log-probabilities of its tokens, and whether it is the last."""

    text: str = ""
    tokens: int = 0
    logprobs: tuple[float, ...] = ()
    reason: StopReason | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


def call(
    api: Api, model: str | None, prompt: Sequence[int] | str, request: CompletionRequest, max_tokens: int
) -> tuple[str, dict[str, Any]]:
    """Path and body of a request for a completion. prompt: for OPENAI the text before the cursor."""
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "stream": True}
    if request.seed is not None:
        sampling["seed"] = request.seed
    if api is Api.LLAMA_SERVER:
        # n_probs makes it tell the tokens' log-probabilities, timings_per_token what was cached before the text ends
        told = {"n_probs": 1, "timings_per_token": True}
        return "/completion", {"prompt": prompt, "n_predict": max_tokens, "cache_prompt": True, **told, **sampling}
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, **sampling}
    if api is Api.VLLM:
        return "/v1/completions", {**body, "logprobs": 1, "stream_options": {"include_usage": True}}
    return "/v1/completions", {**body, "suffix": request.suffix, "logprobs": 1}


def read_event(api: Api, line: str) -> Piece | None:
    """One line of a stream of server-sent events; None if it carries nothing. Raises WireError."""
    if not line.startswith("data:"):
        if line.startswith("error:"):  # llama-server's older form
            raise WireError(line.removeprefix("error:").strip()[:200])
        return None
    data = line.removeprefix("data:").strip()
    if data == FINISHED:
        return None
    try:
        event = json.loads(data)
        if "error" in event:
            error = event["error"]
            raise WireError(str(error.get("message", error) if isinstance(error, dict) else error)[:200])
        return _of_llama_server(event) if api is Api.LLAMA_SERVER else _of_openai(event)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WireError(f"no event of {api.value}: {data[:80]!r} ({type(error).__name__})") from None


def _of_llama_server(event: dict[str, Any]) -> Piece:
    logprobs = tuple(float(one["logprob"]) for one in event.get("completion_probabilities") or ())
    reason = None
    if event["stop"]:
        reason = StopReason.LENGTH if event.get("stop_type") == "limit" or event.get("stopped_limit") else StopReason.EOS
    timings = event.get("timings") or {}
    return Piece(
        text=checked(event["content"]),
        tokens=len(event.get("tokens") or logprobs) or bool(event["content"]),
        logprobs=() if event["stop"] else logprobs,  # the last event repeats nothing of use
        reason=reason,
        prompt_tokens=event.get("tokens_evaluated"),
        cached_tokens=timings.get("cache_n", event.get("tokens_cached") if event["stop"] else None),
    )


def _of_openai(event: dict[str, Any]) -> Piece:
    usage = event.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt, cached = usage.get("prompt_tokens"), details.get("cached_tokens")
    if not event["choices"]:  # vLLM's last event has only the usage
        return Piece(prompt_tokens=prompt, cached_tokens=cached)
    choice = event["choices"][0]
    logprobs = tuple(float(one) for one in (choice.get("logprobs") or {}).get("token_logprobs") or () if one is not None)
    finish = choice.get("finish_reason")
    reason = {None: None, "length": StopReason.LENGTH}.get(finish, StopReason.EOS)
    text = checked(choice["text"])
    return Piece(text, len(logprobs) or bool(text), logprobs, reason, prompt, cached)


def checked(text: Any) -> str:
    """A text that is one. Raises TypeError."""
    if not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return text
