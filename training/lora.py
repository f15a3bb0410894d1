"""LoRA and QLoRA: the stage `<run>/lora`, in which a base model learns a user's code by a small adapter.

checkpoint-<step>/   the adapter in PEFT's layout, and its optimiser
adapter/             the last one without its optimiser
adapter.gguf         the same for llama.cpp, to be laid over a GGUF of the base
merged/              base and adapter as one model in Hugging Face layout, if asked for
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from codelm.config.preset import Preset, load_preset
from codelm.config.rules import strategy_of
from codelm.errors import UserError
from codelm.export.adapter import write_adapter as write_gguf
from codelm.models import check_weights_fit, load_model, parameter_count, weights_sha256
from codelm.progress import Progress, silent
from codelm.stage import MANIFEST, Manifest, Stage
from training import adapter, checkpoint, origin, pretrain
from training.engine.ranks import Ranks
from training.run_folder import PRESET, step_of
from training.stage import LIBRARIES, OPERATIONAL, run_stage

ADAPTER, GGUF, MERGED = "adapter", "adapter.gguf", "merged"
TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup_share": 0.05,
    "ema": None,
    "tokens": None,
    "minutes": None,
    "data": {"anneal": None},
    "watch": {"early_stop": {"plateau": None, "divergence": None, "floor": None}},
}
"""What differs from the pretraining of the base, unless it is set."""


def preset_of(base: Path) -> Preset:
    """The preset to train an adapter of a base with: that of its own training, but for TRAINING.

    Raises UserError if the base is no checkpoint in the folder of its training.
    """
    if not (base.parent / PRESET).is_file():
        raise UserError(f"{base} is no checkpoint in the folder of its training", "give --base one that is")
    preset = load_preset(str(base.parent / PRESET))
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
    inputs["base"] = weights_sha256(base)
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
        facts = {"parameters": parameter_count(preset.model), "trained_parameters": trained, "base": str(base)}
        if merge:
            best = counts["best_checkpoint"]
            counts |= {"checkpoint": MERGED, "best_checkpoint": MERGED if best == counts["checkpoint"] else best}
        return facts | counts

    def reopen() -> None:
        """What was trained but not merged goes on from the end of its training."""
        if merge and (folder / MANIFEST).exists() and not (folder / MERGED).exists():
            (folder / MANIFEST).unlink()

    ranks.first(reopen)
    return run_stage(stage, preset, train, restart)


def base_model(base: Path, preset: Preset) -> Any:
    """The base, frozen when an adapter is laid in; in 4 bits if asked for. Raises UserError if bitsandbytes is missing."""
    if preset.lora.quantize == "none":
        return load_model(base)
    import torch

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(
            "lora.quantize nf4 needs the package bitsandbytes", "pip install 'codelm[qlora]', or --set lora.quantize=none"
        ) from error
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if half else torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=quantization, device_map={"": device}, local_files_only=True
    )


def write_results(folder: Path, preset: Preset, base: Path, last: Path, merge: bool) -> None:
    """The adapter for PEFT and for llama.cpp, and the merged model, beside the checkpoints."""
    target = folder / ADAPTER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in (adapter.WEIGHTS, "adapter_config.json"):
        shutil.copyfile(last / name, target / name)
    write_gguf(folder / GGUF, preset.model, load_file(last / adapter.WEIGHTS), preset.lora.alpha, preset.name)
    shutil.rmtree(folder / MERGED, ignore_errors=True)
    if merge:
        partial = folder / f".{MERGED}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model = adapter.merged(base, target)
        checkpoint.write_weights(partial, model, model.state_dict())
        checkpoint.seal(partial, {"step": step_of(last)})
        partial.rename(folder / MERGED)
