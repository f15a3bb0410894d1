"""Training on a CPU: how fast the loop is, and what fill-in-the-middle costs in bits per byte.

Two comparisons, each within one run:

- throughput: tokens/s of `codelm train pretrain` against a plain Hugging Face `Trainer` in float32, with the same shape, data
  and batch, in alternating rounds; the ratio of the medians;
- quality: held-out bits per byte after the same time, against AdamW at 3e-3 on random crops without fill-in-the-middle, with
  the same shape and the same engine.

    python benchmarks/train_cpu.py                        both, about 15 minutes
    python benchmarks/train_cpu.py --minutes 1 --rounds 1  a glance
    python benchmarks/train_cpu.py --only throughput --preset benchmarks/20m-512.yaml

The last line is one JSON object with all figures.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState

from codelm.config.corpus import CorpusConfig
from codelm.config.preset import Preset, load_preset
from codelm.corpus.build import build
from codelm.corpus.tokens import encode, open_shard
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.models import build_model, load_model
from codelm.tokenizer import FILE, Tokenizer, train
from training import metrics
from training.data import SAMPLE, PackedSamples, generator
from training.pretrain import Run, pretrain

WARM_UP_STEPS = 4
BITS_TOKENS = 200_000


class RandomCrops(PackedSamples):
    """The baseline's data: windows at random places of the documents laid end to end, as plain text."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = int(generator(self.seed, SAMPLE, i).integers(len(self.shard.ids) - self.length))
        ids = torch.from_numpy(np.asarray(self.shard.ids[start : start + self.length + 1], dtype=np.int64))
        return ids[:-1], ids[1:]


class TrainerSamples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Our samples as the Trainer wants them: the model shifts the labels itself."""

    def __init__(self, samples: PackedSamples, count: int) -> None:
        self.samples, self.count = samples, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids, _ = self.samples[i]
        return {"input_ids": ids, "labels": ids}


def our_speed(folder: Path, data: Path, preset: Preset, steps: int) -> float:
    """Median tokens/s of our loop."""
    tokens = steps * preset.pretrain.micro_batch_size * preset.model.context_length
    settings = preset.with_training(tokens=tokens, watch={"log_every": 1, "evaluations": 0, "checkpoint_seconds": 1e9})
    pretrain(folder, settings, data / "tokens", data / "tokenizer")
    return statistics.median(row["tokens_per_second"] for row in metrics.read(folder)[WARM_UP_STEPS:])


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
            per_device_train_batch_size=preset.pretrain.micro_batch_size,
            max_steps=steps,
            learning_rate=preset.pretrain.learning_rate,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        ),
        train_dataset=TrainerSamples(samples, steps * preset.pretrain.micro_batch_size),
        callbacks=[clock],
    ).train()
    AcceleratorState._reset_state(reset_partial_state=True)  # else what comes next would have to be float32 too
    seconds = np.diff(clock.ends)[WARM_UP_STEPS - 1 :]
    return preset.pretrain.micro_batch_size * preset.model.context_length / float(np.median(seconds))


def throughput(folder: Path, data: Path, preset: Preset, rounds: int, steps: int) -> dict[str, Any]:
    """Alternating rounds of both, and the ratio of their medians."""
    ours, trainer = [], []
    for number in range(rounds):
        ours.append(our_speed(folder / f"ours-{number}", data, preset, steps))
        trainer.append(trainer_speed(folder / f"trainer-{number}", data, preset, steps))
        print(f"round {number + 1}: ours {ours[-1]:,.0f} tokens/s, Trainer in float32 {trainer[-1]:,.0f}", flush=True)
    return {
        "tokens_per_second": round(statistics.median(ours)),
        "trainer_tokens_per_second": round(statistics.median(trainer)),
        "throughput_ratio": round(statistics.median(ours) / statistics.median(trainer), 2),
        "rounds": rounds,
    }


def quality(folder: Path, data: Path, preset: Preset, minutes: float) -> dict[str, Any]:
    """Bits per byte with fill-in-the-middle and of the baseline, after the budget that `minutes` gives on this machine."""
    tokenizer, valid = Tokenizer(data / "tokenizer" / FILE), open_shard(data / "tokens", "valid")

    def bits(checkpoint: Path) -> float:
        return bits_per_byte(load_model(checkpoint), valid, tokenizer, BITS_TOKENS)

    made = pretrain(folder / "fim", preset.with_training(minutes=minutes), data / "tokens", data / "tokenizer")
    with_fim = bits(folder / "fim" / made.counts["checkpoint"])
    print(f"with fill-in-the-middle: {with_fim:.4f} bits per byte, {made.seconds:.0f} s", flush=True)

    # the same tokens on the same engine take the same time
    plain = preset.with_training(tokens=made.counts["tokens"], learning_rate=3e-3)
    (folder / "baseline").mkdir()
    run = Run(folder / "baseline", plain, data / "tokens", data / "tokenizer", lambda *_, **__: None, print)
    run.samples = RandomCrops(run.samples.shard, tokenizer, plain.pretrain.fim, plain.model.context_length, seed=0)
    started = time.monotonic()
    counts = run.to_the_end()
    baseline = bits(folder / "baseline" / counts["checkpoint"])
    print(f"baseline: {baseline:.4f} bits per byte, {time.monotonic() - started:.0f} s", flush=True)
    return {
        "minutes": minutes,
        "tokens": made.counts["tokens"],
        "bits_per_byte": round(with_fim, 4),
        "baseline_bits_per_byte": round(baseline, 4),
        "bits_per_byte_ratio": round(with_fim / baseline, 4),
    }


def main() -> None:
    """Prepares the standard library once, then runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training of the quality comparison")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput comparison")
    parser.add_argument("--steps", type=int, default=20, help="of each round")
    parser.add_argument("--only", choices=["throughput", "quality"])
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset)
    figures: dict[str, Any] = {"benchmark": "train_cpu", "preset": preset.name, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "corpus", CorpusConfig())
        train(folder / "tokenizer", preset.tokenizer, folder / "corpus")
        encode(folder / "tokens", folder / "corpus", folder / "tokenizer")
        if arguments.only != "quality":
            figures |= throughput(folder, folder, preset, arguments.rounds, arguments.steps)
        if arguments.only != "throughput":
            figures |= quality(folder, folder, preset, arguments.minutes)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
