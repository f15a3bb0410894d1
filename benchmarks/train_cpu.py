"""Training on a CPU: how fast the loop is against a plain Hugging Face `Trainer` in float32.

The same shape, data and batch, in alternating rounds, each in a process of its own, by the medians of whole steps: the preset
with its own optimiser, and with AdamW, which is the Trainer's; and the share of the loop's own time that is neither forward,
backward nor step. What is learned by it is speedrun_cpu.py's to say.

    python benchmarks/train_cpu.py
    python benchmarks/train_cpu.py --preset benchmarks/20m-512.yaml --rounds 1

The last line is one JSON object with all figures.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is loaded: both sides compute on the processor

import numpy as np
import torch

from codelm.config.corpus import CorpusConfig
from codelm.config.preset import Preset, load_preset
from codelm.corpus.build import build
from codelm.corpus.tokens import encode, open_shard
from codelm.models import build_model
from codelm.tokenizer import FILE, Tokenizer, train
from training import metrics
from training.data import PackedSamples
from training.engine.precision import precision_of
from training.pretrain import pretrain

WARM_UP_STEPS = 4


class TrainerSamples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Our samples as the Trainer wants them: the model shifts the labels itself."""

    def __init__(self, samples: PackedSamples, count: int) -> None:
        self.samples, self.count = samples, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = self.samples[i].ids
        return {"input_ids": ids, "labels": ids}


def our_speed(folder: Path, data: Path, preset: Preset, steps: int) -> tuple[float, float]:
    """Median tokens/s of our loop, and its median share of overhead."""
    tokens = steps * preset.pretrain.batch_size * preset.model.context_length
    watch = {"log_every": 1, "evaluations": 0, "checkpoint_seconds": 1e9}
    pretrain(folder, preset.with_training(tokens=tokens, watch=watch), data / "tokens", data / "tokenizer")
    rows = [row for row in metrics.read(folder) if "loss" in row][WARM_UP_STEPS:]
    return statistics.median(row["tokens_per_second"] for row in rows), statistics.median(row["overhead_share"] for row in rows)


def trainer_speed(folder: Path, data: Path, preset: Preset, steps: int) -> float:
    """Median tokens/s of `transformers.Trainer`, float32, its defaults otherwise."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    tokenizer = Tokenizer(data / "tokenizer" / FILE)
    samples = PackedSamples(
        open_shard(data / "tokens", "train"), tokenizer, preset.pretrain.fim, preset.model.context_length, preset.pretrain.seed
    )
    clock = Clock()
    Trainer(
        model=build_model(preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=preset.pretrain.batch_size,
            max_steps=steps,
            learning_rate=preset.pretrain.learning_rate,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        ),
        train_dataset=TrainerSamples(samples, steps * preset.pretrain.batch_size),
        callbacks=[clock],
    ).train()
    seconds = np.diff(clock.ends)[WARM_UP_STEPS - 1 :]
    return preset.pretrain.batch_size * preset.model.context_length / float(np.median(seconds))


def throughput(folder: Path, data: Path, preset: Preset, rounds: int, steps: int) -> dict[str, Any]:
    """Alternating rounds of the preset, of the preset with AdamW as the Trainer has it, and of the Trainer; their medians."""
    adamw = preset.with_training(optimizer="adamw")
    ours, with_adamw, overheads, trainer = [], [], [], []
    # what one side tells torch or the C library must not help or hinder the other
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        for number in range(rounds):
            speed, overhead = alone.submit(our_speed, folder / f"ours-{number}", data, preset, steps).result()
            ours.append(speed)
            overheads.append(overhead)
            if preset.pretrain.optimizer != "adamw":
                speed, _ = alone.submit(our_speed, folder / f"adamw-{number}", data, adamw, steps).result()
            with_adamw.append(speed)
            trainer.append(alone.submit(trainer_speed, folder / f"trainer-{number}", data, preset, steps).result())
            told = f"ours {ours[-1]:,.0f} tokens/s, with AdamW {with_adamw[-1]:,.0f}, Trainer in float32 {trainer[-1]:,.0f}"
            print(f"round {number + 1}: {told}", flush=True)
    median, adamw_median, peer = (statistics.median(speeds) for speeds in (ours, with_adamw, trainer))
    return {
        "optimizer": preset.pretrain.optimizer,
        "tokens_per_second": round(median),
        "adamw_tokens_per_second": round(adamw_median),
        "trainer_tokens_per_second": round(peer),
        "throughput_ratio": round(median / peer, 2),
        "adamw_ratio": round(adamw_median / peer, 2),
        "overhead_share": round(statistics.median(overheads), 4),
        "rounds": rounds,
    }


def main() -> None:
    """Prepares the standard library once, then measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of each round")
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset)
    figures: dict[str, Any] = {
        "benchmark": "train_cpu", "preset": preset.name, "threads": torch.get_num_threads(),
        "precision": precision_of(preset.pretrain.engine.precision),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "corpus", CorpusConfig())
        train(folder / "tokenizer", preset.tokenizer, folder / "corpus")
        encode(folder / "tokens", folder / "corpus", folder / "tokenizer")
        figures |= throughput(folder, folder, preset, arguments.rounds, arguments.steps)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
