"""How fast a preset trains on one GPU, step by step, and where its time goes. One call, under ten minutes, no network.

    python benchmarks/gpu_train.py --data .cache/gpu-data --prepare     the standard library as 32K-entry tokens, on any machine
    python benchmarks/gpu_train.py --data .cache/gpu-data               the measurement, on the machine with the GPU
    python benchmarks/gpu_train.py --device cpu --preset nano --quick   the same on a CPU in a minute, to see that it works

Each rung of the ladder changes one thing of the fastest so far and stays if it is faster by more than NOISE. What is timed are
whole steps of the real loop (`training.pretrain.loop`: data workers, checksums, clipping, optimiser) after two that warm up
and compile. A rung that the time left does not hold is skipped and said. Then the fastest runs with the preset's own batch,
and a step of two of its micro-batches is profiled, in which the optimiser has a larger share than in a whole one. MFU is
tokens per second × FLOPs per token (`codelm.models.flops_per_token`: attention in full) over the peak of dense bf16 in the
device table. The last line is one JSON object with all figures.

Rungs marked "experiment" try what the product has no setting for yet.
"""

import argparse
import contextlib
import functools
import gc
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from codelm.config.corpus import CorpusConfig
from codelm.config.preset import Preset, load_preset, merged
from codelm.corpus.build import build
from codelm.corpus.tokens import encode
from codelm.models import build_model, flops_per_token, parameter_count
from codelm.progress import silent
from codelm.stage import Manifest
from codelm.tokenizer import train
from training import loss
from training.data import loader
from training.loop import Loop
from training.plan.devices import this_gpu
from training.pretrain import loop
from training.watch_peak import measured

NOISE = 0.005
WARMUP = 2
ROOM = 2.5
"""How much of the longest rung so far must be left to begin another: for that one, and for the last run with its profile."""
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "products": ("gemm", "cutlass", "nvjet", "xmma", "cublas", "aten::mm", "aten::addmm", "aten::bmm", "mkl"),
    "optimiser": ("adam", "multi_tensor", "foreach", "muon"),
    "loss, without its products": ("logsumexp", "log_softmax", "chunkedcrossentropy"),
    "copies": ("memcpy", "memset", "aten::copy_"),
    "norms, RoPE, SwiGLU, casts": ("triton", "elementwise", "reduce_kernel", "vectorized", "compiledfxgraph", "aten::"),
}
"""What a kernel is for, by a part of its name; the first that matches."""

Experiment = Callable[[], contextlib.AbstractContextManager[Any]]


class Rung(NamedTuple):
    """One thing to change."""

    name: str
    settings: Mapping[str, Any] = {}
    """of the preset's group `pretrain`"""
    experiment: Experiment | None = None
    may_stay: bool = True
    """False: measured beside the fastest, for it changes what is learned"""
    only: str = "cpu cuda"


@contextlib.contextmanager
def loss_chunk(positions: int) -> Iterator[None]:
    """Logits of more positions at once: fewer and larger products, for more memory."""
    with mock.patch.object(loss, "CHUNK", positions):
        yield


def cudnn_attention() -> contextlib.AbstractContextManager[Any]:
    """cuDNN's kernel before torch's flash kernel."""
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(backends, set_priority=True)


@contextlib.contextmanager
def narrow_residual() -> Iterator[None]:
    """The residual stream in bfloat16, which autocast keeps in float32 because embeddings answer in it."""

    def build_narrow(*arguments: Any, **options: Any) -> Any:
        model = build_model(*arguments, **options)
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.to(torch.bfloat16))
        return model

    with mock.patch("training.pretrain.build_model", build_narrow):
        yield


def compile_mode(mode: str) -> contextlib.AbstractContextManager[Any]:
    """torch.compile with another effort."""
    return mock.patch("torch.compile", functools.partial(torch.compile, mode=mode))


def ladder(preset: Preset) -> list[Rung]:
    """In the order of what is worth knowing, for time may run out."""
    micro = preset.pretrain.micro_batch_size
    other = "adamw" if preset.pretrain.optimizer == "muon" else "muon"
    return [
        Rung("uncompiled", {"engine": {"compile": False}}),
        Rung("compiled", {"engine": {"compile": True}}),
        Rung("experiment: residual stream in bf16", experiment=narrow_residual),
        Rung("experiment: attention of cuDNN", experiment=cudnn_attention, only="cuda"),
        Rung("attention: varlen", {"engine": {"attention": "varlen"}}, only="cuda"),
        Rung("attention: flash_attention_2", {"engine": {"attention": "flash_attention_2"}}, only="cuda"),
        Rung("attention: sdpa", {"engine": {"attention": "sdpa"}}, only="cpu"),
        Rung("experiment: loss in chunks of 8,192", experiment=functools.partial(loss_chunk, 8192)),
        Rung(f"micro-batch of {2 * micro}", {"engine": {"micro_batch_size": 2 * micro}}),
        Rung(f"micro-batch of {micro // 2 or 1}", {"engine": {"micro_batch_size": micro // 2 or 1}}),
        Rung("document masks", {"data": {"document_mask": True}}, may_stay=False),
        Rung(f"optimizer: {other}", {"optimizer": other}, may_stay=False),
        Rung("gradient checkpointing", {"engine": {"gradient_checkpointing": True}}, may_stay=False),
        Rung(f"micro-batch of {4 * micro}", {"engine": {"micro_batch_size": 4 * micro}}, only="cuda"),
        Rung("experiment: max-autotune", experiment=functools.partial(compile_mode, "max-autotune-no-cudagraphs"), only="cuda"),
    ]


class Figures(NamedTuple):
    """What one way of training does."""

    tokens_per_second: float
    mfu: float
    step_seconds: float
    update_seconds: float
    """of clipping and optimiser, in a step"""
    data_share: float
    """of a step's time that the host waits for data; a GPU computes on meanwhile"""
    peak_gigabytes: float | None
    setup_seconds: float
    """model, compilation and the steps that warm up"""

    def row(self, name: str, note: str = "") -> str:
        """A line of the table."""
        memory = f"{self.peak_gigabytes:7.1f}" if self.peak_gigabytes is not None else "      –"
        return (
            f"{name:<38} {self.tokens_per_second:>10,.0f} {self.mfu:>6.1%} {self.step_seconds * 1e3:>9,.0f}"
            f" {self.update_seconds * 1e3:>7.1f} {self.data_share:>5.1%} {memory} {self.setup_seconds:>6.0f}  {note}"
        )


HEADER = (
    f"{'':<38} {'tokens/s':>10} {'MFU':>6} {'ms/step':>9} {'update':>7} {'data':>5} {'peak GB':>7} {'set up':>6}\n{'-' * 104}"
)


class Bench:
    """The measurement of one preset on one device."""

    def __init__(self, data: Path, preset: Preset, cpu: bool, steps: int, seconds: float) -> None:
        self.data, self.preset, self.steps = data, preset, steps
        self.deadline = time.monotonic() + seconds
        self.device = torch.device("cpu" if cpu else "cuda")
        known = None if cpu else this_gpu()
        self.measured_peak = measured(self.device, torch.float32 if cpu else torch.bfloat16, 1024 if cpu else 8192)
        self.peak = known.tflops * 1e12 if known else self.measured_peak
        self.source = known.source if known else "measured here"
        self.longest = 0.0

    def climb(self, names: list[str]) -> dict[str, Any]:
        """The ladder, or those of its rungs whose names hold one of `names`; returns all figures."""
        best, kept, base = None, [], {}
        rows: dict[str, Any] = {}
        print(HEADER, flush=True)
        for rung in ladder(self.preset):
            if self.device.type not in rung.only or (names and not any(name in rung.name for name in names)):
                continue
            if time.monotonic() + ROOM * self.longest > self.deadline:
                rows[rung.name] = {"skipped": "no time left"}
                print(f"{rung.name:<38} skipped: no time left", flush=True)
                continue
            settings = merged(base, rung.settings)
            experiments = [*kept, *([rung.experiment] if rung.experiment else [])]
            try:
                figures = self.measure(self.changed(settings), experiments)
            except Exception as error:  # what a machine cannot do is a figure too
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                rows[rung.name] = {"failed": reason}
                print(f"{rung.name:<38} {reason}", flush=True)
                continue
            faster = best is None or figures.tokens_per_second > best.tokens_per_second * (1 + NOISE)
            if stays := faster and rung.may_stay:
                best, kept, base = figures, experiments, settings
            rows[rung.name] = {**figures._asdict(), "kept": stays}
            print(figures.row(rung.name, "kept" if stays else ""), flush=True)
        try:
            return {"rungs": rows, **self.last(base, kept)}
        except Exception as error:  # the ladder's figures stand
            print(f"the last run: {type(error).__name__}: {error}", flush=True)
            return {"rungs": rows}

    def changed(self, settings: Mapping[str, Any], batch: int | None = None) -> Preset:
        """The preset with other settings.

        batch: least sequences of a step, made whole micro-batches; without it, a step is 4 micro-batches.
        """
        micro = settings.get("engine", {}).get("micro_batch_size", self.preset.pretrain.micro_batch_size)
        batch = -(-batch // micro) * micro if batch else 4 * max(self.preset.pretrain.micro_batch_size, micro)
        # a budget that no measurement reaches
        engine = {"micro_batch_size": micro}
        return self.preset.with_training(tokens=10**12, batch_size=batch, engine=engine).with_training(**settings)

    @contextlib.contextmanager
    def training(self, preset: Preset, experiments: list[Experiment]) -> Iterator[tuple[Loop, Iterator[Any]]]:
        """A loop on the data, and its micro-batches, with nothing left of the one before."""
        torch._dynamo.reset()
        gc.collect()  # what an exception held until now
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with contextlib.ExitStack() as stack:
            for experiment in experiments:
                stack.enter_context(experiment())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made = loop(folder, preset, self.data / "tokens", self.data / "tokenizer", silent, print)
            batches = loader(made.samples, made.batches(0, 10_000), preset.pretrain.engine.workers)
            yield made, iter(batches)

    def measure(self, preset: Preset, experiments: list[Experiment], then: Callable[..., None] | None = None) -> Figures:
        """Times some steps. then: is given the loop and its micro-batches afterwards."""
        started = time.perf_counter()
        with self.training(preset, experiments) as (made, batches):
            for number in range(WARMUP):
                made.step(made.next_batch(batches), number, 0.1)
            self.finish()
            setup = time.perf_counter() - started
            marks, waited = [self.mark()], 0.0
            for number in range(self.steps):
                begin = time.perf_counter()
                batch = made.next_batch(batches)
                waited += time.perf_counter() - begin
                made.step(batch, WARMUP + number, 0.1)
                marks.append(self.mark())
            self.finish()
            seconds = [self.between(first, second) for first, second in itertools.pairwise(marks)]
            for part in batch:
                made.engine.backward(part, part.labels.numel())
            self.finish()
            begin = time.perf_counter()
            made.engine.update(0.1)
            self.finish()
            update = time.perf_counter() - begin
            if then:
                then(made, batches)
        self.longest = max(self.longest, time.perf_counter() - started)
        speed = preset.pretrain.batch_size * preset.model.context_length / statistics.median(seconds)
        return Figures(
            tokens_per_second=round(speed, 1),
            mfu=round(speed * flops_per_token(preset.model) / self.peak, 4),
            step_seconds=round(statistics.median(seconds), 5),
            update_seconds=round(update, 5),
            data_share=round(waited / sum(seconds), 4),
            peak_gigabytes=round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.device.type == "cuda" else None,
            setup_seconds=round(setup, 1),
        )

    def last(self, settings: Mapping[str, Any], experiments: list[Experiment]) -> dict[str, Any]:
        """The fastest way with the preset's own batch, and the profile of a short step of it."""
        profile: dict[str, Any] = {}
        preset = self.changed(settings, self.preset.pretrain.batch_size)

        def look(made: Loop, batches: Iterator[Any]) -> None:
            profile.update(self.profile(made, [next(batches) for _ in range(min(2, made.accumulation))]))

        figures = self.measure(preset, experiments, look)
        print(figures.row(f"fastest, batch of {preset.pretrain.batch_size}"), "\n", flush=True)
        print(f"{'products of the head, by FLOPs':<38} {self.head_share():>6.1%} of the products")
        for name, share in profile["shares"].items():
            print(f"{name:<38} {share:>6.1%}")
        print("\n" + "\n".join(f"{row['ms']:>9.2f} ms × {row['calls']:<6} {row['name']}" for row in profile["kernels"]))
        return {"fastest": figures._asdict() | {"settings": settings}, "profile": profile}

    def profile(self, made: Loop, batch: list[Any]) -> dict[str, Any]:
        """What the time of a step's kernels went to, and how much of the step the device had nothing to do."""
        cuda = self.device.type == "cuda"
        activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
        self.finish()
        with torch.profiler.profile(activities=activities) as profiler:
            begin = time.perf_counter()
            made.step(batch, 0, 0.1)
            self.finish()
            wall = time.perf_counter() - begin
        kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
        own = "self_device_time_total" if cuda else "self_cpu_time_total"
        events = [
            event
            for event in profiler.key_averages()
            if event.device_type == kind and getattr(event, own) > 0 and not event.is_user_annotation
        ]
        shares = dict.fromkeys([*KINDS, "other"], 0.0)
        for event in events:
            shares[kind_of(event.key)] += getattr(event, own) / 1e6 / wall
        if cuda:
            shares["idle"] = 1 - sum(shares.values())
        slowest = sorted(events, key=lambda event: -getattr(event, own))[:20]
        return {
            "wall_ms": round(wall * 1e3, 2),
            "micro_batches": len(batch),
            "head_share_of_products": round(self.head_share(), 4),
            "shares": {name: round(value, 4) for name, value in shares.items()},
            "kernels": [
                {"name": event.key[:120], "calls": event.count, "ms": round(getattr(event, own) / 1e3, 3)} for event in slowest
            ],
        }

    def head_share(self) -> float:
        """Of the FLOPs of all products with weights, those of the head: from a kernel's shapes it cannot be told."""
        model = self.preset.model
        return model.vocab_size * model.width / parameter_count(model)

    def finish(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def mark(self) -> Any:
        """A point in time of the device, which is not waited for."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Seconds between two marks."""
        return float(second - first) if self.device.type == "cpu" else first.elapsed_time(second) / 1e3


def kind_of(kernel: str) -> str:
    """What a kernel is for."""
    name = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def prepare(data: Path, preset: Preset) -> None:
    """The standard library as tokens, if they are not there. Exits if those that are there are another vocabulary's."""
    if (data / "tokens" / "manifest.json").exists():
        entries = Manifest.read(data / "tokenizer").counts["vocab_size"]
        if entries != preset.model.vocab_size:
            sys.exit(f"{data} has tokens of {entries:,} entries, {preset.name} wants {preset.model.vocab_size:,}: give another")
        return
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        build(corpus, CorpusConfig(attribution=False))
        train(data / "tokenizer", preset.tokenizer, corpus)
        encode(data / "tokens", corpus, data / "tokenizer")


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    if device.type == "cpu":
        return {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=False)
    return {"device": torch.cuda.get_device_name(), "nvidia_smi": told.stdout.strip(), "cuda": torch.version.cuda}


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--preset", default="200m")
    parser.add_argument("--minutes", type=float, help="when to end, the profile included; default: 9, with --quick 1")
    parser.add_argument("--steps", type=int, default=4, help="that are timed on each rung")
    parser.add_argument("--data", type=Path, help="folder of the tokens, made if they are not there; default: a temporary one")
    parser.add_argument("--prepare", action="store_true", help="make the data and measure nothing")
    parser.add_argument("--quick", action="store_true", help="two layers, short contexts, one minute: to see that it works")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of rungs")
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset)
    with contextlib.ExitStack() as stack:
        data = arguments.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(data, preset)
        if arguments.prepare:
            return
        if arguments.quick:
            small = {"batch_size": 4, "engine": {"micro_batch_size": 1}}
            preset = preset.with_changes({"model": {"layers": 2, "context_length": 256}, "pretrain": small})
        # the clock does not count the data: they can be brought along
        minutes = arguments.minutes or (1.0 if arguments.quick else 9.0)
        # a graph that was compiled for one attention kernel must not be taken for another
        torch._functorch.config.enable_autograd_cache = False
        bench = Bench(data, preset, arguments.device == "cpu", arguments.steps, 60 * minutes)
        about = {"benchmark": "gpu_train", "preset": preset.name, "parameters": parameter_count(preset.model)}
        about |= {"flops_per_token": flops_per_token(preset.model), "torch": torch.__version__, **machine(bench.device)}
        about |= {"peak_tflops": bench.peak / 1e12, "peak_source": bench.source}
        about |= {"measured_tflops": round(bench.measured_peak / 1e12, 3)}
        print("\n".join(f"{key}: {value}" for key, value in about.items()), "\n")
        print(json.dumps(about | bench.climb(arguments.only)))


if __name__ == "__main__":
    main()
