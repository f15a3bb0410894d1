"""Completion while somebody types: `codelm serve` against llama-server's `/infill`, same keys, same model file.

    scripts/build_llama_server.sh /tmp/llama-server
    python benchmarks/typing_trace.py --peer /tmp/llama-server/llama-server --folder /tmp/typing
    python benchmarks/typing_trace.py --models run/export/70m-q8_0.gguf --git ~/some/repository --scenarios typing busy
    python benchmarks/typing_trace.py --quick                       to see that it works, without a peer if none is given

Each key, and each jump of the cursor, asks for a completion and gives up the one before, if it is still on its way, by closing
its connection. The servers take turns, trace by trace. llama-server writes as many tokens as codelm wrote at the same key.
Milliseconds are the client's, from before connecting until the answer is there, of the requests that were answered; superseded
ones are counted apart, lost ones are neither. Before the cursor moves on, an answer is shown.

typing    percentiles, how many answers came from memory, which share of the other prompts' tokens was not read again, after
          keys and after jumps, and which share of the written tokens nobody got
cold      a file of 2,000 lines that the server has not seen
jumps     cursors that jump between places of one file, each of them several times
busy      typing with one core taken by another process
typists   several at once, at a steady rate
cancel    from closing the connection in mid-work until the server's threads rest, by the CPU time they take
memory    resident, against the model file and a full KV cache in float16
--soak    minutes of typing, and memory before and after

Models are presets with random weights, as PRESET-FORMAT, or GGUF files. What random weights write is noise, so no draft is ever
accepted and no suggestion ever typed: where a server gains by those, it gains nothing here. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_models import context_of, kv_bytes_per_token, model_file
from typing_replay import Costs, Outcome, asked, figures, replay, written
from typing_servers import Codelm, LlamaServer, Peer, Query, Server
from typing_traces import Trace, folder_changes, git_changes, make_trace

from codelm.errors import UserError

SCENARIOS = ("typing", "cold", "jumps", "busy", "typists", "cancel", "memory")
MODELS = ["70m-q4_0", "200m-q4_0"]
COLD_LINES = 2_000
VISITS = 3


class Effort(NamedTuple):
    """How much is done. seconds: of typing, for each server. typists: how many, and typists_seconds for how long."""

    seconds: float = 60
    cold: int = 5
    places: int = 12
    typists: int = 8
    typists_seconds: float = 60
    cancels: int = 20
    rate: float = 5


QUICK = Effort(seconds=4, cold=1, places=3, typists=2, typists_seconds=3, cancels=3)


Figures = dict[str, dict[str, Any]]
"""Figures by server."""


def typing(servers: Sequence[Server], traces: Sequence[Trace], seconds: float) -> Figures:
    """Trace by trace in turns."""
    outcomes: dict[str, list[Outcome]] = {server.peer.name: [] for server in servers}
    costs = [Costs(server) for server in servers]
    left = seconds
    for trace in traces:
        if left <= 0:
            break
        tokens: dict[int, int] = {}
        length = min(left, sum(step.wait for step in trace.steps))
        for server in servers:
            some = asyncio.run(replay(server, [trace], length, tokens))
            tokens = tokens or written(some)
            outcomes[server.peer.name] += some
        left -= length
    spent = [cost.of(outcomes[cost.server.peer.name]) for cost in costs]
    return {server.peer.name: figures(outcomes[server.peer.name]) | cost for server, cost in zip(servers, spent, strict=True)}


def busy(servers: Sequence[Server], traces: Sequence[Trace], seconds: float) -> Figures:
    """Typing beside a process that takes one core."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return typing(servers, traces, seconds)
    finally:
        other.kill()
        other.wait()


def at_places(servers: Sequence[Server], queries: Sequence[Query]) -> Figures:
    """Questions that wait for their answers, the servers in turns."""
    outcomes: dict[str, list[Outcome]] = {server.peer.name: [] for server in servers}
    for number, query in enumerate(queries):
        tokens = query.tokens
        for server in servers:
            for other in servers:  # what one does ahead is not to slow the other down
                asyncio.run(other.resting())
            outcome = asyncio.run(asked(server, query._replace(tokens=tokens), number))
            tokens = max(1, written([outcome]).get(number, tokens))
            outcomes[server.peer.name].append(outcome)
    return {name: figures(some) for name, some in outcomes.items()}


def cold_queries(texts: Sequence[str], count: int, seed: int) -> list[Query]:
    """Cursors at the ends of lines in files of COLD_LINES that have nothing at their places twice."""
    source = random.Random(f"cold {seed}")
    queries = []
    for number in range(count):
        lines = [line for text in source.sample(texts, len(texts)) for line in text.splitlines()][:COLD_LINES]
        at = source.randrange(len(lines) // 2, len(lines))
        queries.append(Query(f"cold{number}.py", "\n".join(lines), len("\n".join(lines[:at]))))
    return queries


def jump_queries(texts: Sequence[str], places: int, seed: int) -> list[Query]:
    """Places of one file, each VISITS times, never the same twice in turn if there are others."""
    source = random.Random(f"jumps {seed}")
    text = max(texts, key=len)
    ends = [at for at, character in enumerate(text) if character == "\n" and text[at - 1] != "\n"]
    cursors = source.sample(ends, min(places, len(ends)))
    return [Query("jumps.py", text, at) for _ in range(VISITS) for at in source.sample(cursors, len(cursors))]


def typists(peers: Sequence[Peer], model: Path, traces: Sequence[Trace], count: int, seconds: float, rate: float) -> Figures:
    """Several people, each with other traces, on a server that was told how many they are."""
    found: Figures = {}
    tokens: list[dict[int, int]] = [{} for _ in range(count)]
    for peer in peers:
        with Server(peer, model, parallel=count) as server:
            costs = Costs(server)
            each = asyncio.run(together(server, traces, count, seconds, rate, tokens))
            if not any(tokens):
                tokens = [written(some) for some in each]
            outcomes = [outcome for some in each for outcome in some]
            found[peer.name] = figures(outcomes) | costs.of(outcomes) | memory_of(server, model, count)
    return found


async def together(
    server: Server, traces: Sequence[Trace], count: int, seconds: float, rate: float, tokens: Sequence[Mapping[int, int]]
) -> list[list[Outcome]]:
    """The outcomes of each typist, who starts over when there is nothing left to type."""

    async def one(client: int) -> list[Outcome]:
        await asyncio.sleep(client / count / rate)  # keys do not fall together
        mine = [*traces[client:], *traces[:client]] * 100
        return await replay(server, mine, seconds, tokens[client], client, rate)

    return await asyncio.gather(*map(one, range(count)))


def cancel(servers: Sequence[Server], texts: Sequence[str], count: int) -> Figures:
    """Milliseconds from giving a request up until the server rests."""
    source = random.Random("cancel")
    rests: dict[str, list[float]] = {server.peer.name: [] for server in servers}
    finished = dict.fromkeys(rests, 0)
    for number in range(count):
        text = source.choice(texts)
        query = Query(f"cancel{number}.py", text, source.randrange(len(text)), lines=64, tokens=128)
        wait = source.uniform(0.01, 0.2)
        for server in servers:
            rest = asyncio.run(rest_after(server, query, wait))
            if rest is None:
                finished[server.peer.name] += 1
            else:
                rests[server.peer.name].append(rest)
    return {
        name: {f"p{percent}_ms": round(float(np.percentile(some, percent)), 1) for percent in (50, 95) if some}
        | {"cancelled": len(some), "finished_before": finished[name]}
        for name, some in rests.items()
    }


async def rest_after(server: Server, query: Query, wait: float) -> float | None:
    """Milliseconds to rest of a request that is given up after `wait` seconds; None if it is answered by then."""
    await server.resting()
    task = asyncio.create_task(server.ask(query))
    await asyncio.sleep(wait)
    if task.done():
        task.exception()  # an error is as finished as an answer, and is not to be complained of
        return None
    started = time.perf_counter()
    task.cancel()
    await asyncio.wait([task])
    return (await server.resting() - started) * 1e3


def memory_of(server: Server, model: Path, parallel: int) -> dict[str, Any]:
    """Megabytes of 10⁶ bytes."""
    cache = kv_bytes_per_token(model) * context_of(model) * parallel
    size = model.stat().st_size
    rss = server.memory()
    return {
        key: round(n / 1e6, 1)
        for key, n in {"rss_mb": rss, "gguf_mb": size, "kv_mb": cache, "over_mb": rss - size - cache}.items()
    }


def soak(peer: Peer, model: Path, traces: Sequence[Trace], minutes: float) -> dict[str, Any]:
    """Memory at the start, when every file has been open once and a minute of typing is over, each minute, and at the end."""

    async def watched() -> tuple[list[Outcome], list[float]]:
        """A reading for every minute of typing, the last at its end."""
        typing = asyncio.create_task(replay(server, list(traces) * 1000, minutes * 60 - warm, {}))
        readings = []
        while not (await asyncio.wait([typing], timeout=60))[0]:
            readings.append(round(server.memory() / 1e6, 1))
        return typing.result(), [*readings, round(server.memory() / 1e6, 1)]

    with Server(peer, model) as server:
        for trace in traces:
            for path, text in trace.texts.items():
                asyncio.run(asked(server, Query(path, text, len(text) // 2), 0))
        warm = min(60.0, minutes * 6)
        asyncio.run(replay(server, list(traces) * 100, warm, {}))
        before = round(server.memory() / 1e6, 1)
        outcomes, readings = asyncio.run(watched())
    kept = ("requests", "answered", "superseded", "lost", "first_error", "p50_ms", "p95_ms")
    shown = {key: value for key, value in figures(outcomes).items() if key in kept}
    return {"minutes": minutes, "rss_start_mb": before, "rss_end_mb": readings[-1], "rss_mb": readings} | shown


def ratios(found: Figures) -> dict[str, float]:
    """codelm / peer, of the figures that both have."""
    if len(found) < 2:
        return {}
    ours, theirs = found.values()
    numbers = {key: (value, theirs[key]) for key, value in ours.items() if isinstance(theirs.get(key), int | float)}
    return {key: round(a / b, 3) for key, (a, b) in numbers.items() if isinstance(a, int | float) and b}


def show(model: str, scenario: str, found: Figures) -> None:
    """A table."""
    quotients = ratios(found)
    print(f"\n{model} · {scenario:20}" + "".join(f"{name:>14}" for name in found) + ("         ratio" if quotients else ""))
    for key in dict.fromkeys(key for some in found.values() for key in some):
        values = "".join(f"{some.get(key, '-')!s:>14}" for some in found.values())
        print(f"  {key:{len(model) + 21}}{values}" + (f"{quotients[key]:>14}" if key in quotients else ""), flush=True)


def measure(
    peers: Sequence[Peer], model: Path, scenarios: Sequence[str], traces: Sequence[Trace], effort: Effort
) -> dict[str, Figures]:
    """All scenarios of a model."""
    texts = [text for trace in traces for text in trace.texts.values()]
    found: dict[str, Figures] = {}

    def keep(scenario: str, some: Figures) -> None:
        found[scenario] = some
        show(model.stem, scenario, some)

    if set(scenarios) - {"typists"}:
        servers: list[Server] = []
        try:
            servers += (Server(peer, model) for peer in peers)
            at_places(servers, jump_queries(texts, 2, seed=-1))  # memory is touched, and code loaded, before anything counts
            if "cold" in scenarios:
                keep("cold", at_places(servers, cold_queries(texts, effort.cold, 0)))
            if "typing" in scenarios:
                keep("typing", typing(servers, traces, effort.seconds))
            if "jumps" in scenarios:
                keep("jumps", at_places(servers, jump_queries(texts, effort.places, 0)))
            if "busy" in scenarios:
                keep("busy", busy(servers, traces[::-1], effort.seconds))  # what was typed before is known
            if "cancel" in scenarios:
                keep("cancel", cancel(servers, texts, effort.cancels))
            if "memory" in scenarios:
                keep("memory", {server.peer.name: memory_of(server, model, 1) for server in servers})
        finally:
            for server in servers:
                server.close()
    if "typists" in scenarios:
        keep("typists", typists(peers, model, traces, effort.typists, effort.typists_seconds, effort.rate))
    return found


def main() -> None:
    """Makes models and traces, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"PRESET-FORMAT or .gguf, default {' '.join(MODELS)}")
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--peer", type=Path, help="the llama-server binary")
    parser.add_argument("--peer-options", default="", help="more for it, such as --spm-infill, in one argument")
    parser.add_argument("--options", default="", help="more for `codelm serve`, in one argument")
    parser.add_argument("--folder", type=Path, help="where models are kept, for another call")
    parser.add_argument("--context", type=int, default=1_152, help="tokens that models of random weights are served with")
    parser.add_argument("--code", type=Path, default=Path(sysconfig.get_path("stdlib")), help="folder whose code is typed anew")
    parser.add_argument("--git", type=Path, metavar="REPO", help="type the latest commits of a repository instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help=f"of typing for each server, default {Effort().seconds:g}")
    parser.add_argument("--typists", type=int, help=f"default {Effort().typists}")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="instead of the scenarios")
    parser.add_argument("--quick", action="store_true", help="a little of everything, of nano if no model is named")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else Effort()
    effort = effort._replace(
        seconds=arguments.seconds or effort.seconds,
        typists=arguments.typists or effort.typists,
        typists_seconds=arguments.seconds or effort.typists_seconds,
    )
    names = arguments.models or (["nano-q8_0"] if arguments.quick else MODELS)
    count = 2 * effort.typists
    work = git_changes(arguments.git, count) if arguments.git else folder_changes(arguments.code, arguments.seed, count)
    traces = [make_trace(changes, arguments.seed + number, effort.rate) for number, changes in enumerate(work)]
    try:
        peers: list[Peer] = [Codelm(arguments.options.split())]
        if arguments.peer:
            peers.append(LlamaServer(arguments.peer, arguments.peer_options.split()))
        with tempfile.TemporaryDirectory() as temporary:
            models = {name: model_file(name, arguments.folder or Path(temporary), arguments.context) for name in names}
            results: dict[str, Any] = {}
            for name, model in models.items():
                if arguments.soak:
                    results[name] = {"soak": {peer.name: soak(peer, model, traces, arguments.soak) for peer in peers}}
                    show(model.stem, "soak", results[name]["soak"])
                else:
                    results[name] = measure(peers, model, arguments.scenarios, traces, effort)
    except UserError as error:
        sys.exit(f"error: {error}")
    about = {
        "benchmark": "typing_trace",
        "llama_cpp_python": version("llama-cpp-python"),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "options": {"codelm": arguments.options, "llama-server": arguments.peer_options},
        "effort": effort._asdict(),
    }
    summary = {
        model: {name: {**some, "ratio": ratios(some)} for name, some in found.items()} for model, found in results.items()
    }
    print(json.dumps(about | {"models": summary}))


if __name__ == "__main__":
    main()
