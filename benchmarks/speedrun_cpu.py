"""Speedrun: nano on the standard library for some minutes on this CPU, recipe against recipe, by held-out bits per byte.

    python benchmarks/speedrun_cpu.py                                     best, report and trainer, 5 minutes, 3 seeds
    python benchmarks/speedrun_cpu.py --recipes best adamw cosine          an ablation
    python benchmarks/speedrun_cpu.py --cpu-time                          on a machine that does other work (set
                                                                          OMP_WAIT_POLICY=passive, so that nothing spins)
    python benchmarks/speedrun_cpu.py --tokens 400_000 --recipes best adamw  equal tokens

Recipes are in speedrun_recipes.yaml. They are measured by bits per byte on held-out text, the same for all of one tokenizer
and context, as many tokens at other places for others; and by those of the true rests of lines after the prompt of a served
completion. Within a seed the recipes run one after the other, in turning order.
The clock stands still while a model is evaluated. A budget of minutes becomes a number of steps by a short measurement at the
start of each training, as in `codelm train pretrain --minutes`. `time_ratio` is the share of the time of `report` that `best`
takes to where the curve of `report` ends, by the straight line between the measured points around it. The last line is one
JSON object with all figures.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is loaded: both sides compute on the processor

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState

from codelm.config.corpus import CorpusConfig
from codelm.config.preset import Preset, load_preset, merged
from codelm.corpus.build import build
from codelm.corpus.tokens import TokenShard, encode, open_shard
from codelm.evaluation.bits_per_byte import bits_per_byte
from codelm.evaluation.exact_match import is_exact
from codelm.evaluation.generate import NEW_TOKENS, prompt_of, ready_to_write, write_lines
from codelm.evaluation.places import Place, draw_places
from codelm.models import build_model
from codelm.stage import digest
from codelm.tokenizer import FILE, Tokenizer, train
from training.data import SAMPLE, generator, loader
from training.pretrain import loop
from training.schedule import learning_rate_share

RECIPES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("speedrun_recipes.yaml").read_text(encoding="utf-8")
)
CURVE_TOKENS = 24_000
"""Held-out tokens of each point of a curve."""
FINAL_TOKENS = 100_000
REST_PLACES = 256
MEASURED_STEPS = 8


class Recipe(NamedTuple):
    """What is trained, and on which data."""

    name: str
    preset: Preset
    trainer: bool
    tokenizer: Path
    tokens: Path


class Clock:
    """Seconds while it runs: of wall time, or of this process's CPU time over its threads."""

    def __init__(self, cpu: bool) -> None:
        self.now = (lambda: time.process_time() / torch.get_num_threads()) if cpu else time.perf_counter
        self.seconds = 0.0

    def start(self) -> None:
        self.started = self.now()

    def stop(self) -> None:
        self.seconds += self.now() - self.started

    def of(self, call: Callable[[], object]) -> float:
        """The seconds of a call."""
        started = self.now()
        call()
        return self.now() - started


class Budget(NamedTuple):
    """How long a training is: tokens, or minutes of the clock, of which `cpu` says what it counts.

    points: how often the curve is measured. places: at which lines are written at the end.
    """

    minutes: float
    tokens: int | None
    cpu: bool
    points: int
    places: int


class Race:
    """One training: its clock, its curve, and how many steps it has."""

    def __init__(self, recipe: Recipe, budget: Budget, valid: TokenShard, tokenizer: Tokenizer, tokens_per_step: int) -> None:
        self.recipe, self.budget, self.tokens_per_step = recipe, budget, tokens_per_step
        self.valid, self.tokenizer = valid, tokenizer
        self.clock = Clock(budget.cpu)
        self.curve: list[tuple[float, float]] = []

    def set_steps(self, seconds_per_step: Callable[[], float]) -> int:
        """The length of the training, by tokens or by minutes at the measured speed."""
        minutes, tokens, points = self.budget.minutes, self.budget.tokens, self.budget.points
        self.steps = max(1, tokens // self.tokens_per_step if tokens else int(minutes * 60 / seconds_per_step()))
        self.due = {max(1, round(self.steps * number / points)) for number in range(1, points + 1)}
        return self.steps

    def after(self, step: int, model: Any) -> None:
        """A point of the curve, if one is due after that many steps."""
        if step in self.due:
            self.curve.append((round(self.clock.seconds, 1), self.bits(model, CURVE_TOKENS)))

    def bits(self, model: Any, tokens: int) -> float:
        """Bits per byte of so many held-out tokens."""
        return round(bits_per_byte(model, self.valid, self.tokenizer, tokens), 4)

    def figures(self, model: Any, texts: list[str]) -> dict[str, Any]:
        """What the training was worth."""
        figures: dict[str, Any] = {
            "recipe": self.recipe.name,
            "bits_per_byte": self.bits(model, FINAL_TOKENS),
            "rest_bits_per_byte": round(rest_bits(model, self.tokenizer, draw_places(texts, REST_PLACES, seed=0)), 4),
            "tokens": self.steps * self.tokens_per_step,
            "seconds": round(self.clock.seconds, 1),
            "tokens_per_second": round(self.steps * self.tokens_per_step / self.clock.seconds),
            "curve": self.curve,
        }
        if self.budget.places:
            places = draw_places(texts, self.budget.places, seed=0)
            started = time.process_time()
            lines = write_lines(model, self.tokenizer, places)
            figures["exact_match"] = round(statistics.mean(map(is_exact, lines, places)), 4)
            figures["cpu_ms_per_completion"] = round((time.process_time() - started) * 1e3 / len(places), 2)
        return figures


@torch.no_grad()
def rest_bits(model: Any, tokenizer: Tokenizer, places: list[Place]) -> float:
    """Bits per byte of the true rests of lines, each after the prompt that is served: what fill-in-the-middle is for."""
    bits = bytes_ = 0.0
    with ready_to_write(model):
        for place in places:
            rest = tokenizer.encode(place.rest)[:NEW_TOKENS]
            ids = torch.tensor([[*prompt_of(place, tokenizer, model.config.max_position_embeddings), *rest]])
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(rest) + 1).logits[0, :-1].float()
            bits += float(torch.nn.functional.cross_entropy(logits, ids[0, -len(rest) :], reduction="sum")) / math.log(2)
            bytes_ += int(tokenizer.byte_lengths[rest].sum())
    return bits / bytes_


def run_ours(recipe: Recipe, texts: list[str], budget: Budget) -> dict[str, Any]:
    """Our loop's own steps."""
    with tempfile.TemporaryDirectory() as folder:
        ours = loop(
            Path(folder), recipe.preset.with_training(tokens=1), recipe.tokens, recipe.tokenizer, lambda *_, **__: None, print
        )
    race = Race(recipe, budget, ours.valid, ours.tokenizer, ours.tokens_per_step)

    def seconds_per_step() -> float:
        """At a learning rate of 0; the first steps compile."""
        batches = iter(loader(ours.samples, ours.batches(0, MEASURED_STEPS), 0))
        seconds = [race.clock.of(lambda: ours.step(ours.next_batch(batches), 0, 0.0)) for _ in range(MEASURED_STEPS)]
        ours.engine.forget()
        return statistics.median(seconds[2:])

    measured = seconds_per_step()  # also with a budget of tokens, so that all is compiled before the clock starts
    steps = race.set_steps(lambda: measured)
    batches = iter(loader(ours.samples, ours.batches(0, steps), recipe.preset.pretrain.engine.workers))
    for step in range(steps):
        race.clock.start()
        ours.step(ours.next_batch(batches), step, learning_rate_share(step, steps, ours.config))
        race.clock.stop()
        race.after(step + 1, ours.engine.model)
    return race.figures(ours.engine.model, texts)


class Crops(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Windows at random places of the documents laid end to end; the Trainer's model shifts the labels itself."""

    def __init__(self, shard: TokenShard, end: int, length: int, seed: int, count: int) -> None:
        """end: <|endoftext|>, which closes each document."""
        self.ids = np.insert(shard.ids[:], shard.offsets[1:], end)
        self.length, self.seed, self.count = length, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        start = int(generator(self.seed, SAMPLE, i).integers(len(self.ids) - self.length))
        ids = torch.from_numpy(self.ids[start : start + self.length].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def run_trainer(recipe: Recipe, texts: list[str], budget: Budget) -> dict[str, Any]:
    """`transformers.Trainer` as one would set it up by hand."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    config, tokenizer = recipe.preset.pretrain, Tokenizer(recipe.tokenizer / FILE)
    length = recipe.preset.model.context_length
    race = Race(recipe, budget, open_shard(recipe.tokens, "valid"), tokenizer, config.batch_size * length)
    train_shard = open_shard(recipe.tokens, "train")

    class Watch(TrainerCallback):
        def __init__(self, racing: bool) -> None:
            self.racing, self.ends = racing, [race.clock.now()]

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.ends.append(race.clock.now())
            if self.racing:
                race.clock.stop()
                race.after(state.global_step, model)
                race.clock.start()  # the time between two steps, in which it fetches data, counts too

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            if self.racing:
                race.clock.start()

    def fit(steps: int, watch: Watch) -> Any:
        model = build_model(recipe.preset.model, tokenizer.fim.endoftext, tokenizer.fim.fim_pad, config.seed)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, per_device_train_batch_size=config.batch_size, max_steps=steps, seed=config.seed,
                learning_rate=config.learning_rate, lr_scheduler_type="cosine", warmup_steps=max(1, steps // 50),
                weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, save_strategy="no", report_to=[], disable_tqdm=True,
                logging_strategy="no", use_cpu=True,
            )  # fmt: skip
            data = Crops(train_shard, tokenizer.fim.endoftext, length, config.seed, steps * config.batch_size)
            Trainer(model=model, args=arguments, train_dataset=data, callbacks=[watch]).train()
        AcceleratorState._reset_state(reset_partial_state=True)  # what comes next may have another precision
        return model

    def seconds_per_step() -> float:
        watch = Watch(racing=False)
        fit(MEASURED_STEPS, watch)
        return float(np.median(np.diff(watch.ends)[2:]))

    steps = race.set_steps(seconds_per_step)
    return race.figures(fit(steps, Watch(racing=True)), texts)


def prepared(folder: Path, names: list[str], seed: int) -> list[Recipe]:
    """The recipes with their data; data that several share is made once."""
    recipes = []
    for name in names:
        changes = RECIPES[name]
        values = load_preset("nano").model_dump()
        for group in ("model", "tokenizer", "pretrain"):
            values[group] = merged(values[group], changes.get(group, {}))
        preset = Preset.model_validate(values).with_training(seed=seed)
        data = folder / digest(preset.tokenizer.model_dump())[:12]
        train(data / "tokenizer", preset.tokenizer, folder / "corpus")
        encode(data / "tokens", folder / "corpus", data / "tokenizer")
        recipes.append(Recipe(name, preset, changes.get("trainer", False), data / "tokenizer", data / "tokens"))
    return recipes


def seconds_to(curve: list[tuple[float, float]], bits: float) -> float | None:
    """When a curve reaches so few bits per byte; None if it never does."""
    before = None
    for seconds, value in curve:
        if value <= bits:
            if before is None:
                return seconds
            return before[0] + (seconds - before[0]) * (before[1] - bits) / max(before[1] - value, 1e-9)
        before = seconds, value
    return None


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and spread by recipe, and how long `best` takes to where `report` ends."""
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_recipe.setdefault(result["recipe"], []).append(result)
    figures: dict[str, Any] = {}
    for name, runs in by_recipe.items():
        medians = {
            key: statistics.median(run[key] for run in runs) for key in runs[0] if key not in ("seed", "recipe", "curve")
        }
        bits = [run["bits_per_byte"] for run in runs]
        figures[name] = {**medians, "bits_per_byte_spread": round(max(bits) - min(bits), 4)}
    if {"best", "report"} <= by_recipe.keys():
        ratios = []
        for best, report in zip(by_recipe["best"], by_recipe["report"], strict=True):
            reached = seconds_to(best["curve"], report["curve"][-1][1])
            ratios.append(None if reached is None else round(reached / report["seconds"], 3))
        figures["time_ratio"] = ratios
    return figures


def main() -> None:
    """Makes the data once, then races."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["best", "report", "trainer"], choices=RECIPES, metavar="NAME")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, help="instead of minutes")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU seconds over threads, for a machine that does other work"
    )
    parser.add_argument("--points", type=int, default=10, help="of each curve")
    parser.add_argument("--places", type=int, default=256, help="at which the trained model writes a line; 0 leaves that out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--folder", type=Path, help="where the data is kept, for another call")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    budget = Budget(arguments.minutes, arguments.tokens, arguments.cpu_time, arguments.points, arguments.places)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        build(folder / "corpus", CorpusConfig())
        for seed in arguments.seeds:
            recipes = prepared(folder, arguments.recipes, seed)
            turn = seed % len(recipes)
            for recipe in [*recipes[turn:], *recipes[:turn]]:
                texts = held_out(recipe)
                run = run_trainer if recipe.trainer else run_ours
                results.append({"seed": seed} | run(recipe, texts, budget))
                print(json.dumps(results[-1]), flush=True)
                torch._dynamo.reset()
    facts = {**budget._asdict(), "seeds": arguments.seeds, "threads": torch.get_num_threads()}
    print(json.dumps({"benchmark": "speedrun_cpu", **facts, **summary(results)}))


def held_out(recipe: Recipe) -> list[str]:
    """The texts of the validation split."""
    from codelm.evaluation.exact_match import texts_of

    return texts_of(open_shard(recipe.tokens, "valid"), Tokenizer(recipe.tokenizer / FILE))


if __name__ == "__main__":
    main()
