"""A trace replayed against a server, and what is said of the requests that it made."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_servers import Answer, Query, Server
from typing_traces import Kind, Trace

TOKENS = 12
"""What is to be written where nothing is known."""


class Outcome(NamedTuple):
    """What became of a request: an answer, an error, or neither, if the next one took its place."""

    number: int
    kind: Kind
    ms: float | None = None
    answer: Answer | None = None
    error: str | None = None


async def replay(
    server: Server,
    traces: Iterable[Trace],
    seconds: float,
    tokens: Mapping[int, int],
    client: int = 0,
    rate: float | None = None,
) -> list[Outcome]:
    """Types for some seconds. tokens: to be written, by request. rate: keys a second, instead of the traces' own waits."""
    tasks: list[asyncio.Task[Outcome]] = []
    end = due = time.monotonic()
    end += seconds
    usual = int(statistics.median(tokens.values())) if tokens else TOKENS
    for step, text in (pair for trace in traces for pair in trace.replay()):
        due += 1 / rate if rate else step.wait
        if due > end:
            break
        number = len(tasks)
        query = Query(step.path, text, step.cursor, client, tokens=max(1, tokens.get(number, usual)))
        path, body = server.peer.question(query)
        content = json.dumps(body).encode()
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if tasks:
            tasks[-1].cancel()
        tasks.append(asyncio.create_task(timed(server, path, content, number, step.kind)))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would count as nothing
    return list(await asyncio.gather(*tasks))


async def timed(server: Server, path: str, body: bytes, number: int, kind: Kind) -> Outcome:
    """One request."""
    started = time.perf_counter()
    try:
        answer = await server.ask_raw(path, body)
    except asyncio.CancelledError:
        return Outcome(number, kind)
    except (OSError, ValueError, KeyError) as error:
        return Outcome(number, kind, error=f"{type(error).__name__}: {error}")
    return Outcome(number, kind, (time.perf_counter() - started) * 1e3, answer)


async def asked(server: Server, query: Query, number: int, kind: Kind = Kind.JUMP) -> Outcome:
    """One request that nothing takes the place of."""
    path, body = server.peer.question(query)
    return await timed(server, path, json.dumps(body).encode(), number, kind)


def written(outcomes: Iterable[Outcome]) -> dict[int, int]:
    """How many tokens each answered request got."""
    return {outcome.number: outcome.answer.predicted_tokens for outcome in outcomes if outcome.answer}


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What is said of requests."""
    answers = [outcome.answer for outcome in outcomes if outcome.answer]
    times = [outcome.ms for outcome in outcomes if outcome.ms is not None]
    lost = [outcome.error for outcome in outcomes if outcome.error]
    found: dict[str, Any] = {
        "requests": len(outcomes),
        "answered": len(answers),
        "superseded": len(outcomes) - len(answers) - len(lost),
        "lost": len(lost),
    }
    if lost:
        found["first_error"] = lost[0]
    if not answers:
        return found
    found |= {f"p{percent}_ms": round(float(np.percentile(times, percent)), 2) for percent in (50, 95)}
    found["shown"] = sum(answer.shown for answer in answers)
    of_model = [answer for answer in answers if answer.prompt_tokens]
    found["from_memory"] = len(answers) - len(of_model)
    if not of_model:
        return found
    found["prompt_tokens"] = round(statistics.median(answer.prompt_tokens for answer in of_model))
    found["read_tokens"] = round(statistics.median(answer.prompt_tokens - answer.cached_tokens for answer in of_model))
    found["written_tokens"] = round(statistics.mean(answer.predicted_tokens for answer in of_model), 1)
    for name, kinds in (("cached_typing", (Kind.TYPE, Kind.ERASE)), ("cached_jump", (Kind.JUMP,))):
        these = [outcome.answer for outcome in outcomes if outcome.answer and outcome.kind in kinds]
        if total := sum(answer.prompt_tokens for answer in these):
            found[name] = round(sum(answer.cached_tokens for answer in these) / total, 4)
    return found


class Costs:
    """What a server spends while a block runs: its CPU time, and tokens that nobody got."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cpu, self.tokens = -server.cpu_seconds(), -(asyncio.run(server.generated()) or 0)

    def of(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """For the requests that were made."""
        cpu = self.cpu + self.server.cpu_seconds()
        answers = [outcome.answer for outcome in outcomes if outcome.answer]
        found: dict[str, Any] = {"cpu_ms_per_answer": round(cpu * 1e3 / max(1, len(answers)), 1)}
        total = asyncio.run(self.server.generated())
        if total is not None:
            total += self.tokens
            found["wasted_tokens"] = total - sum(answer.predicted_tokens for answer in answers)
            found["wasted_share"] = round(found["wasted_tokens"] / max(1, total), 4)
        return found
