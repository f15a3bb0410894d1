"""A real run, small: corpus → tokenizer → tokens → training → evaluation → export, each made once per test session."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import settings

# before torch is loaded, and for the processes that tests start: on a machine that does something else besides, two
# threads that wait for each other at every small matrix product are ten times slower than one
os.environ.setdefault("OMP_NUM_THREADS", "1")

from codelm.config.corpus import CorpusConfig, LicensePolicy
from codelm.config.preset import Preset, load_preset
from codelm.corpus.build import build
from codelm.stage import Manifest

# how long an example takes tells of the machine and what else it does, not of the code
settings.register_profile("codelm", settings(), deadline=None)
settings.load_profile("codelm")

TINY = Path(__file__).parent / "fixtures" / "tiny.yaml"
SOURCES = "argparse.py ast.py asyncio copy.py dataclasses.py email heapq.py http json logging pprint.py textwrap.py zipfile.py"


VOID = {"meta", "br", "link", "img", "rect", "line"}


class Page(HTMLParser):
    """The texts of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    """torch has one number of threads for the process: what is served by it in a test leaves another one behind."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def html_page() -> type[Page]:
    """Reads a page."""
    return Page


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the stages."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="session")
def code_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real code: some modules and packages of the standard library."""
    folder = tmp_path_factory.mktemp("source")
    library = Path(sysconfig.get_path("stdlib"))
    for name in SOURCES.split():
        if (library / name).is_dir():
            shutil.copytree(library / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(library / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def corpus(run: Path, code_dir: Path) -> Path:
    """The stage folder of that code."""
    build(run / "corpus", CorpusConfig(sources=[str(code_dir)], licenses=LicensePolicy(unknown="keep")))
    return run / "corpus"


@pytest.fixture(scope="session")
def tiny_preset() -> Preset:
    """Two layers that train in seconds."""
    return load_preset(str(TINY))


@pytest.fixture(scope="session")
def tokenizer_dir(run: Path, corpus: Path, tiny_preset: Preset) -> Path:
    """The stage folder of a vocabulary of 1,024 tokens."""
    from codelm.tokenizer import train

    train(run / "tokenizer", tiny_preset.tokenizer, corpus)
    return run / "tokenizer"


@pytest.fixture(scope="session")
def tokens_dir(run: Path, corpus: Path, tokenizer_dir: Path) -> Path:
    """The stage folder of the encoded corpus."""
    from codelm.corpus.tokens import encode

    encode(run / "tokens", corpus, tokenizer_dir)
    return run / "tokens"


@pytest.fixture(scope="session")
def trained(run: Path, tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path) -> Path:
    """The stage folder of a finished pretraining."""
    from training.pretrain import pretrain

    pretrain(run / "pretrain", tiny_preset, tokens_dir, tokenizer_dir)
    return run / "pretrain"


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    """The last checkpoint of that training."""
    return trained / Manifest.read(trained).counts["checkpoint"]


@pytest.fixture(scope="session")
def bundle(
    run: Path, tiny_preset: Preset, trained: Path, checkpoint: Path, corpus: Path, tokens_dir: Path, tokenizer_dir: Path
) -> Path:
    """The stage folder with the GGUF files of that checkpoint."""
    from codelm.evaluation.evaluate import EvaluateConfig, evaluate
    from codelm.evaluation.held_out import HeldOut
    from codelm.evaluation.systems import TrainedModel
    from codelm.export.export import export
    from codelm.tokenizer import FILE

    model = TrainedModel(tiny_preset.name, checkpoint, tokenizer_dir / FILE)
    config = EvaluateConfig(tokens=8_192, places=8)
    scores = evaluate(run / "evaluate", config, [model], HeldOut(corpus, tokens_dir)).counts
    arguments = (tiny_preset, checkpoint, corpus, tokenizer_dir, Manifest.read(trained), scores)
    export(run / "export", *arguments, evaluation=run / "evaluate")
    return run / "export"


@pytest.fixture(scope="session")
def gguf(bundle: Path) -> Path:
    """A real model file, quantised."""
    return bundle / "tiny-q8_0.gguf"


@pytest.fixture(scope="session")
def gguf_f16(bundle: Path) -> Path:
    """The same model in float16."""
    return bundle / "tiny-f16.gguf"


@pytest.fixture(scope="session")
def small_gguf(
    run: Path,
    tiny_preset: Preset,
    corpus: Path,
    tokens_dir: Path,
    tokenizer_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model of half the layers with the same tokenizer, trained for a while: a draft."""
    from codelm.export.export import export
    from training.pretrain import pretrain

    model = tiny_preset.model.model_copy(update={"layers": 1})
    training = tiny_preset.pretrain.model_copy(update={"tokens": 102_400})
    preset = tiny_preset.model_copy(update={"name": "small", "model": model, "pretrain": training})
    folder = tmp_path_factory.mktemp("small")
    pretrain(folder / "pretrain", preset, tokens_dir, tokenizer_dir)
    trained = Manifest.read(folder / "pretrain")
    scores = {"bits_per_byte": None, "exact_match": None}
    export(
        folder / "export", preset, folder / "pretrain" / trained.counts["checkpoint"], corpus, tokenizer_dir, trained, scores
    )
    return folder / "export" / "small-q8_0.gguf"


@pytest.fixture(scope="session")
def as_served(run: Path, bundle: Path, gguf: Path, corpus: Path, tokens_dir: Path) -> Path:
    """The stage folder with the scores of that file in llama.cpp, at the places of `bundle`."""
    from cli.served import Served
    from codelm.evaluation.evaluate import EvaluateConfig, evaluate
    from codelm.evaluation.held_out import HeldOut

    config = EvaluateConfig.model_validate(Manifest.read(run / "evaluate").config)
    evaluate(run / "evaluate-tiny-q8_0", config, [Served(gguf, threads=1)], HeldOut(corpus, tokens_dir))
    return run / "evaluate-tiny-q8_0"


@pytest.fixture(scope="session")
def permissive_corpus(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That corpus, as if the default policy had let it pass: it is the standard library, which was given as a folder."""
    folder = tmp_path_factory.mktemp("permissive") / "corpus"
    shutil.copytree(corpus, folder)
    manifest = Manifest.read(folder)
    manifest.config["licenses"] = LicensePolicy().model_dump()
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def default_bundle(
    run: Path, gguf: Path, trained: Path, permissive_corpus: Path, as_served: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a default model, made of that run."""
    from codelm.default_model.pack import pack

    folder = tmp_path_factory.mktemp("default") / "bundle"
    pack(folder, gguf, trained, permissive_corpus, run / "evaluate", as_served)
    return folder


@pytest.fixture(scope="session")
def marked(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float], Path]:
    """Copies of that model file that tell which one wrote: by its gate it believes a certain share of all it writes."""
    from codelm.export.rewrite import set_text
    from serving.gate import Gate

    def marked(name: str, confidence: float) -> Path:
        path = tmp_path_factory.mktemp("marked") / f"{name}.gguf"
        shutil.copy(gguf, path)
        gate = Gate(
            features=("mean",), mean=(-1.0,), scale=(1.0,), weights=(1.0,), bias=0.0, scores=(0.0,),
            probabilities=(confidence,), thresholds=(0.3, 0.5), precisions=(0.4, 0.6), coverages=(1.0, 0.1),
        )  # fmt: skip
        set_text(path, "codelm.gate", gate.model_dump_json())
        return path

    return marked


@pytest.fixture(scope="session")
def random_adapter(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """LoRA adapters for that model, without a training: strong enough to change what it writes."""
    import numpy as np

    from codelm.export.adapter import write_adapter

    def random_adapter(base_sha256: str) -> Path:
        random, model, rank, tensors = np.random.default_rng(0), tiny_preset.model, 4, {}
        for layer in range(model.layers):
            name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.3, (rank, model.ffn)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.3, (model.width, rank)).astype(np.float32)
        path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
        write_adapter(path, model, tensors, float(rank), tiny_preset.name, base_sha256)
        return path

    return random_adapter


@pytest.fixture(scope="session")
def adapter(random_adapter: Callable[[str], Path], checkpoint: Path) -> Path:
    """An adapter that says that it was trained upon that model."""
    from codelm.models import weights_sha256

    return random_adapter(weights_sha256(checkpoint))
