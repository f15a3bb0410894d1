"""`codelm quickstart`: the whole way from a folder of code to a served completion."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codelm.errors import UserError
from serving import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from cli.stages import RunFolder
    from codelm.stage import Manifest

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

EXAMPLE = "import json\n\n\ndef read_settings(path):\n    with open(path) as file:\n        return "
"""What the new model is first asked to go on with."""
START_SECONDS = 60
PLACES = 128
"""Cursors of each kind that the new model is measured at: it should not take as long as a short training."""


@app.command()
def quickstart(
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help='A folder of source code; may be given again. "stdlib" is the default.'),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 5.0,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("runs/quickstart"),
    preset: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Model and training settings.")] = "nano",
    serve: Annotated[
        bool | None,
        typer.Option("--serve/--no-serve", help="Go on serving at the end. Default: if there is a terminal to stop it from."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to serve.")] = DEFAULT_PORT,
    allow_copyleft: Annotated[
        bool, typer.Option("--allow-copyleft", help="Train on GPL, LGPL, MPL and their like too.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the training that DIR holds.")] = False,
) -> None:
    """Corpus → tokenizer → tokens → training → evaluation → GGUF → a served completion.

    Run it again and finished stages are skipped; after Ctrl-C the same command goes on where it stopped.

    Examples: codelm quickstart

    codelm quickstart --corpus ~/src/my-project --minutes 30 --run runs/mine
    """
    from cli.corpus.build import settings_of
    from cli.progress import Display
    from cli.serve import listen
    from cli.stages import RunFolder, resumable
    from codelm.config.preset import load_preset
    from codelm.evaluation.evaluate import EvaluateConfig
    from codelm.stage import lock

    settings = load_preset(preset).with_training(minutes=minutes)
    # a folder that one gives here is one's own: it need not state a licence
    sources = settings_of(None, corpus or ["stdlib"], allow_copyleft, allow_unknown=True)
    if serve is not False:
        listen(DEFAULT_HOST, port).close()  # better to hear now than after the training that the port is in use

    with resumable(), lock(run), Display() as display:
        folder = RunFolder(run, display)
        stages = {
            "corpus": folder.build_corpus(sources),
            "tokenizer": folder.train_tokenizer(settings),
            "tokens": folder.encode(),
            "pretrain": folder.run_pretrain(settings, restart),
            "evaluate": folder.run_evaluate(EvaluateConfig(places=PLACES)),
            "export": folder.run_export(),
        }
    typer.echo(summary(stages, folder))
    if serve is not False:
        serve_and_ask(folder.bundle(), port, stay=sys.stdin.isatty() if serve is None else serve)


def summary(stages: dict[str, "Manifest"], folder: "RunFolder") -> str:
    """What was made, how good it is, how long it took, and what to type next."""
    corpus, tokens, trained, scores, sizes = (
        stages[name].counts for name in ("corpus", "tokens", "pretrain", "evaluate", "export")
    )
    kinds = {"whole lines": scores["whole_line_match"], "ends of lines": scores["exact_match"]}
    match = " and ".join(f"{share:.1%} of {kind}" for kind, share in kinds.items() if share is not None)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in corpus["rejected"].items())
    rows = {
        "files": f"{corpus['files_kept']:,} of {corpus['files_seen']:,} kept; dropped: {dropped or 'none'}",
        "tokens": f"{tokens['train']['tokens']:,} to train on, {tokens['valid']['tokens']:,} held out",
        "trained": f"{trained['tokens']:,} tokens ({trained['epochs']} epochs), {trained['parameters']:,} parameters",
        "held-out": f"{scores['bits_per_byte']:.3f} bits per byte; written exactly: {match or 'no line to write'}",
        "made": ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()),
        "seconds": ", ".join(f"{name} {manifest.seconds:.0f}" for name, manifest in stages.items()),
    }
    return "\n".join(
        [
            *(f"{name:<9} {text}" for name, text in rows.items()),
            "",
            "What next:",
            f"  codelm serve {folder.bundle()}",
            "      and point your editor at it",
            f"  codelm complete FILE:LINE:COL --model {folder.bundle()}",
            f"  see {folder.pretrain / 'loss.png'} and {folder.export / 'MODEL_CARD.md'}",
        ]
    )


def serve_and_ask(bundle: Path, port: int, stay: bool) -> None:
    """Starts `codelm serve`, asks it for one completion over HTTP, and stays with it until Ctrl-C if so asked."""
    import httpx

    # -P: a folder named cli/ or serving/ in the user's directory is not to be taken for ours
    command = [sys.executable, "-P", "-m", "cli.main", "serve", str(bundle), "--port", str(port)]
    url = f"http://{DEFAULT_HOST}:{port}"
    body = {
        "textDocument": {"uri": "file:///example.py", "languageId": "python", "text": EXAMPLE},
        "position": {"line": EXAMPLE.count("\n"), "character": len(EXAMPLE.rsplit("\n", 1)[1])},
        "context": {"triggerKind": 1},
        "codelm": {"maxLines": 1},
    }
    with subprocess.Popen(command, env=os.environ | {"PYTHONSAFEPATH": "1"}) as server:
        try:
            wait_until_ready(server, url)
            with httpx.Client(trust_env=False, timeout=START_SECONDS) as client:
                answer = client.post(f"{url}/v1/textDocument/inlineCompletion", json=body).raise_for_status().json()
            text = answer["items"][0]["insertText"] if answer["items"] else "(nothing: a few more minutes of training help)"
            print(f"\n{EXAMPLE}\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() else f"\n{EXAMPLE}⟪{text}⟫")
            print(f"\nserved by {url} in {answer['codelm']['timings']['totalMs']:.0f} ms; API: {url}/docs", flush=True)
            if stay:
                server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.terminate()


def wait_until_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Until the server answers. Raises UserError if it ends or takes too long."""
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with httpx.Client(trust_env=False, timeout=2) as client:
                if client.get(f"{url}/v1/health").is_success:
                    return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise UserError("the server did not come up", "run `codelm doctor`, and `codelm serve` on the exported file")
