"""LoRA and QLoRA: the stage `<run>/lora`, in which a base model learns a user's code by a small adapter.

checkpoint-<step>/   the adapter in PEFT's layout, and its optimiser
adapter/             the last one without its optimiser
adapter.gguf         the same for llama.cpp, to be laid over a GGUF of the base
merged/              base and adapter as one model in Hugging Face layout, if asked for
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from codelm.config.preset import Preset
from codelm.config.rules import strategy_of
from codelm.errors import UserError
from codelm.export.adapter import write_adapter as write_gguf
from codelm.models import bitsandbytes_config, check_weights_fit, load_model, parameter_count
from codelm.progress import Progress, silent
from codelm.run_folder import step_of
from codelm.stage import MANIFEST, Manifest, Stage
from training import adapter, checkpoint, origin, pretrain
from training.engine.ranks import Ranks
from training.stage import LIBRARIES, OPERATIONAL, run_stage, spare

ADAPTER, GGUF, MERGED = "adapter", "adapter.gguf", "merged"
TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup_share": 0.05,
    "ema": None,
    "data": {"anneal": None},
}
"""What differs from the pretraining of the base, unless it is set; besides `origin.OF_ONE_RUN`."""


def preset_of(base: Path) -> Preset:
    """The preset to train an adapter of a base with: that of its own training, but for TRAINING.

    Raises UserError if the base is no checkpoint in the folder of its training, and was not read back from a GGUF either.
    """
    preset = origin.preset_of(base)
    if preset is None:
        raise UserError(f"{base} is no checkpoint in the folder of its training", "give --base one that is, or a GGUF")
    return preset.with_changes({"pretrain": TRAINING})


def lora(
    folder: Path,
    preset: Preset,
    tokens: Path,
    tokenizer: Path,
    base: Path,
    progress: Progress = silent,
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
    merge: bool = True,
) -> Manifest:
    """Trains an adapter of `preset.lora` upon a base; resumed, recognised and refused as a pretraining is.

    tokens, tokenizer: the stage folders of the user's code; the tokenizer must be the base's. base: a checkpoint. merge:
    whether base and adapter are written as one model too; asked for later, it is done without training again.

    Raises UserError if the base does not fit or nf4 cannot be had; KeyboardInterrupt after Ctrl-C, with a checkpoint written.
    """
    inputs = {"tokens": Manifest.read(tokens).fingerprint, "tokenizer": Manifest.read(tokenizer).fingerprint}
    origin.check_tokenizer(base, inputs["tokenizer"], "--base", must_be_known=True)
    check_weights_fit(base, preset.model)
    if restart:
        spare(folder, {"--base": base})
    models = {"base": origin.described(base)}
    inputs["base"] = models["base"]["sha256"]
    ranks = Ranks()
    strategy = strategy_of(preset.pretrain.engine, ranks.count)
    if strategy not in ("single", "ddp"):
        raise UserError(
            f"engine.strategy {strategy} cuts weights up among the ranks, and an adapter needs those of its base whole",
            "set engine.strategy to ddp, and lora.quantize to nf4 if the base is too large for a device",
        )
    if preset.pretrain.tokens is None and preset.pretrain.minutes is None:
        counts = Manifest.read(tokens).counts["train"]
        once = counts["tokens"] + counts["documents"]  # each ends with <|endoftext|>
        preset = preset.with_training(tokens=max(1, round(preset.lora.epochs * once)))
    identity = {
        "model": preset.model.model_dump(),
        "pretrain": preset.pretrain.model_dump(exclude=OPERATIONAL),
        "lora": preset.lora.model_dump(),
    }
    stage = Stage(folder, identity, inputs, preset.pretrain.seed, (*LIBRARIES, "peft"))

    def train() -> dict[str, Any]:
        model = base_model(base, preset)
        adapter.add_adapter(model, preset.lora, base, preset.pretrain.seed)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        loop = pretrain.loop(folder, preset, tokens, tokenizer, progress, say, model=model)
        counts = loop.to_the_end()
        loop.engine.world.first(lambda: write_results(folder, preset, base, folder / counts["checkpoint"], merge))
        facts = {"parameters": parameter_count(preset.model), "trained_parameters": trained}
        if merge:
            best = counts["best_checkpoint"]
            counts |= {"checkpoint": MERGED, "best_checkpoint": MERGED if best == counts["checkpoint"] else best}
        return facts | counts

    def reopen() -> None:
        """What was trained but not merged goes on from the end of its training."""
        if merge and stage.done() and not (folder / MERGED).exists():
            (folder / MANIFEST).unlink()

    ranks.first(reopen)
    before_restart = partial(pretrain.check_data, preset, tokens, tokenizer) if restart else None
    return run_stage(stage, preset, train, before_restart, models)


def base_model(base: Path, preset: Preset) -> Any:
    """The base, frozen when an adapter is laid in; in 4 bits if asked for. Raises UserError if bitsandbytes is missing."""
    if preset.lora.quantize == "none":
        return load_model(base)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    quantization = bitsandbytes_config(4, torch.bfloat16 if half else torch.float32, "lora.quantize nf4")
    return load_model(base, torch.float32, device, quantization)


def write_results(folder: Path, preset: Preset, base: Path, last: Path, merge: bool) -> None:
    """The adapter for PEFT and for llama.cpp, and the merged model, beside the checkpoints."""
    target = folder / ADAPTER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in (adapter.WEIGHTS, "adapter_config.json"):
        shutil.copyfile(last / name, target / name)
    tensors = load_file(last / adapter.WEIGHTS)
    write_gguf(folder / GGUF, preset.model, tensors, preset.lora.alpha, preset.name, origin.exported_as(base))
    shutil.rmtree(folder / MERGED, ignore_errors=True)
    if merge:
        partial = folder / f".{MERGED}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model = adapter.merged(base, target)
        checkpoint.write_weights(partial, model, model.state_dict())
        checkpoint.seal(partial, {"step": step_of(last)})
        partial.rename(folder / MERGED)
