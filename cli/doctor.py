"""`codelm doctor`: what this machine has, what is wrong with it for codelm, and the fix."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from serving import DEFAULT_HOST, DEFAULT_PORT

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

MEMORY_GB, DISK_GB = 4, 3
"""What `codelm quickstart` wants, with some room."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. warning: slower or less than could be; problem: something will not work."""

    what: str
    state: Literal["ok", "warning", "problem"]
    found: str
    fix: str = ""


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what this machine has, what is missing, and how to mend it. Exit code 1 if something will not work.

    Example: codelm doctor
    """
    checks: list[Callable[[], Finding]] = [python, cpu, memory, disk, gpu, compiler, torch, llama_cpp, default_model, port]
    findings = [check() for check in checks]
    if as_json:
        import json

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        show(findings)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def show(findings: list[Finding]) -> None:
    """The findings as a table, each fix on a line of its own."""
    from rich.console import Console
    from rich.table import Table

    mark = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(mark[finding.state], finding.what, finding.found)
        if finding.fix:
            table.add_row("", "", f"[bold]fix:[/] {finding.fix}")
    Console().print(table)


def python() -> Finding:
    """The interpreter."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", found)


def cpu() -> Finding:
    """Cores, and the vector units that decide how fast a CPU trains and serves."""
    import psutil

    cores = f"{psutil.cpu_count(logical=False) or psutil.cpu_count()} cores, {psutil.cpu_count()} threads"
    flags = cpu_flags()
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
    units = [name for flag, name in known.items() if flag in flags]
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return Finding("cpu", "warning", f"{cores}, no AVX2", "expect slow training and serving; prefer a newer machine")
    return Finding("cpu", "ok", ", ".join([cores, *units]))


def cpu_flags() -> set[str]:
    """The features that Linux reports of an x86 CPU; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def memory() -> Finding:
    """Memory that is free for use."""
    import psutil

    free, total = psutil.virtual_memory().available / 1e9, psutil.virtual_memory().total / 1e9
    found = f"{free:.1f} of {total:.1f} GB available"
    if free < MEMORY_GB:
        return Finding("memory", "warning", found, f"close programs: training nano wants about {MEMORY_GB} GB")
    return Finding("memory", "ok", found)


def disk() -> Finding:
    """Room in the current directory."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    found = f"{free:.1f} GB free in {Path.cwd()}"
    if free < DISK_GB:
        return Finding("disk", "warning", found, f"make {DISK_GB} GB free, or put the run elsewhere with --run")
    return Finding("disk", "ok", found)


def gpu() -> Finding:
    """NVIDIA GPUs, by the driver's own tool."""
    if not shutil.which("nvidia-smi"):
        return Finding("gpu", "ok", "none (not needed)")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    if result.returncode:
        return Finding("gpu", "warning", "the driver does not answer", "check it with nvidia-smi")
    return Finding("gpu", "ok", "; ".join(result.stdout.strip().splitlines()))


def compiler() -> Finding:
    """What torch.compile needs on a CPU."""
    for name in (os.environ.get("CXX", "c++"), "g++", "clang++"):
        if path := shutil.which(name):
            return Finding("compiler", "ok", path)
    return Finding("compiler", "warning", "no C++ compiler", "install g++ or clang++: training is faster with torch.compile")


def torch() -> Finding:
    """Whether training can work."""
    return importable("torch", "torch", "train")


def llama_cpp() -> Finding:
    """Whether quantising and serving can work."""
    return importable("llama_cpp", "llama-cpp-python", "serve")


def importable(module: str, distribution: str, extra: str) -> Finding:
    """Whether a library is there and loads."""
    fix = f"pip install 'codelm[{extra}]'"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return Finding(distribution, "problem", "not installed", fix)
    except Exception as error:  # a broken shared library can raise anything
        return Finding(distribution, "problem", f"does not load: {error}", f"{fix} --force-reinstall")
    return Finding(distribution, "ok", importlib.metadata.version(distribution))


def default_model() -> Finding:
    """The model that codelm brings along, for those who name none."""
    from codelm.default_model import locate
    from codelm.errors import UserError

    own = "name a model to `codelm serve`; `codelm quickstart` makes one"
    try:
        about = locate.about()
        if about is None:
            return Finding("default model", "warning", "none in this installation", own)
        path = locate.default_model()
    except UserError as error:
        return Finding("default model", "warning", error.message, error.fix)
    counts = about.counts
    facts = f"{counts['parameters'] / 1e6:.1f}M parameters, {counts['tokens'] / 1e6:.0f}M tokens of training"
    index = path.parent / "attribution"
    if index.is_dir():
        facts += f", attribution index of {sum(file.stat().st_size for file in index.iterdir()) / 1e6:.1f} MB"
    return Finding("default model", "ok", f"{path.name}, {counts['bytes'] / 1e6:.1f} MB: {facts}")


def port() -> Finding:
    """The port that `codelm serve` takes."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((DEFAULT_HOST, DEFAULT_PORT))
        except OSError:
            return Finding("port", "warning", f"{DEFAULT_PORT} is in use", "stop what uses it, or serve with another --port")
    return Finding("port", "ok", f"{DEFAULT_PORT} is free")
