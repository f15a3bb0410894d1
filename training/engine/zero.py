"""DeepSpeed's ZeRO: optimiser state and gradients cut up (stage 2), and the weights too (stage 3). arXiv 1910.02054."""

import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from codelm.errors import UserError
from training.checkpoint import LossScale
from training.data import Sample
from training.engine.loss_model import LossModel
from training.engine.ranks import BACKEND
from training.engine.strategy import Moments, Strategy, Weights, clear

OURS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "managed_gradient_accumulation",
    "gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast",
)  # fmt: skip
"""What the preset says, so that a file of DeepSpeed's must not say it again."""


class Zero(Strategy):
    """A DeepSpeed engine. Its own precision settings would cast the weights; torch's autocast leaves them in float32."""

    def __init__(
        self,
        loss_model: LossModel,
        optimizer: torch.optim.Optimizer,
        clip: float,
        precision: str,
        device: torch.device,
        stage: int,
        config: Path | None,
    ) -> None:
        super().__init__(loss_model, optimizer, clip)
        self.device = device
        self.stage = stage
        self.cuts_weights = stage == 3
        settings = configuration(stage, config) | {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only counts with it
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,  # a step is what `step` ends
            "gradient_clipping": clip,
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
            "fp16": {"enabled": precision == "fp16"},
        }
        self.engine = initialize(loss_model, optimizer, settings)
        self.zero: Any = self.engine.optimizer
        self.optimizer = self.zero.optimizer

    def backward(self, batch: Sample, documents: torch.Tensor | None, scale: float, last: bool) -> torch.Tensor:
        loss, parts = self.engine(batch, documents)
        self.engine.backward(loss * scale)
        return parts.detach()

    def step(self) -> torch.Tensor | float:
        self.engine.step()
        return self.engine.get_global_grad_norm()

    def weights(self, everywhere: bool = False) -> Weights:
        from deepspeed.utils import safe_get_full_fp32_param

        kept = everywhere or self.engine.global_rank == 0
        whole = ((name, safe_get_full_fp32_param(parameter)) for name, parameter in self.model.named_parameters())
        return {name: tensor.cpu() for name, tensor in whole if kept}

    def moments(self) -> Moments:
        from deepspeed.utils import safe_get_full_optimizer_state

        names = {parameter: name for name, parameter in self.model.named_parameters()}
        kept: Moments = {}
        self.link()
        for parameters, flat in self.groups():
            for key, value in self.optimizer.state.get(flat, {}).items():
                for parameter in parameters:
                    whole = value if value.ndim == 0 else safe_get_full_optimizer_state(parameter, key)
                    if self.engine.global_rank == 0:
                        kept.setdefault(names[parameter], {})[key] = whole.cpu().clone()
        return kept

    def groups(self) -> Iterator[tuple[list[torch.nn.Parameter], torch.Tensor]]:
        """Parameters, and this rank's part of them laid end to end in float32, which is what the optimiser sees."""
        if self.stage == 2:
            return zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True)
        return zip(self.zero.fp16_groups, self.zero.fp32_partitioned_groups_flat, strict=True)

    def link(self) -> None:
        """Tells parameters where their part of the optimiser's state is; DeepSpeed's stage 2 does it for one group only."""
        from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

        for parameters, flat in self.groups() if self.stage == 2 else ():
            if flat in self.optimizer.state:
                lazy_init_hp_params_optimizer_state(parameters, flat, self.optimizer.state)

    @torch.no_grad()
    def load(self, weights: Weights, moments: Moments) -> None:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameters, flat in self.groups():
            remembered = moments.get(names[parameters[0]], {})
            self.optimizer.state[flat] = {
                key: value.to(flat.device, copy=True) if value.ndim == 0 else torch.zeros_like(flat)
                for key, value in remembered.items()
            }
        self.link()
        put = put_whole if self.stage == 2 else put_part
        for parameter, name in names.items():
            put(parameter, weights[name], None)
            for key, value in moments.get(name, {}).items():
                if value.ndim:
                    put(parameter, value, key)

    def forget(self) -> None:
        clear(self.optimizer)

    @property
    def loss_scale(self) -> LossScale | None:
        if not self.engine.fp16_enabled():
            return None
        scaler = self.zero.loss_scaler
        return LossScale(float(scaler.cur_scale), scaler.cur_iter - scaler.last_overflow_iter - 1)

    @loss_scale.setter
    def loss_scale(self, value: LossScale) -> None:
        if self.engine.fp16_enabled():
            scaler = self.zero.loss_scaler
            scaler.cur_scale, scaler.last_overflow_iter, scaler.cur_iter = value.factor, -1, value.good_steps


def put_whole(parameter: torch.nn.Parameter, value: torch.Tensor, key: str | None) -> None:
    """Sets a parameter that every rank holds, and this rank's part of its float32 copy or of its optimiser state `key`."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if key is not None:
        safe_set_full_optimizer_state(parameter, value, key)
        return
    safe_set_full_fp32_param(parameter, value)
    parameter.copy_(value)


def put_part(parameter: Any, value: torch.Tensor, key: str | None) -> None:
    """Sets this rank's part of a parameter that is cut up, or of its optimiser state `key`; the last part is padded."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
    part = value.flatten()[rank * size : (rank + 1) * size]
    part = torch.nn.functional.pad(part, (0, size - len(part)))
    if key is not None:
        safe_set_local_optimizer_state(parameter, part, key)
        return
    safe_set_local_fp32_param(parameter, part)
    parameter.ds_tensor.copy_(part)
    if parameter.numel() == value.numel():  # small parameters stay whole on every rank
        parameter.copy_(value)


def configuration(stage: int, path: Path | None) -> dict[str, Any]:
    """DeepSpeed's settings: those of the file, or the ready-made ones of a stage. Raises UserError if they cannot be used."""
    ready_made = resources.files("codelm.config") / "deepspeed" / f"zero{stage}.json"
    try:
        settings = yaml.safe_load((path or ready_made).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"engine.deepspeed_config {path}: {reason}", "give a readable JSON or YAML file") from error
    if not isinstance(settings, dict):
        raise UserError(f"engine.deepspeed_config {path}: expected keys with values", "write DeepSpeed's settings into it")
    if twice := [key for key in OURS if key in settings]:
        raise UserError(
            f"engine.deepspeed_config {path}: {', '.join(twice)} follows from the preset", "delete that from the file"
        )
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") != stage:
        raise UserError(
            f"engine.deepspeed_config {path}: zero_optimization.stage is not {stage}, as engine.strategy says",
            f"set it to {stage}, or engine.strategy to another",
        )
    return {"zero_force_ds_cpu_optimizer": False} | settings


def initialize(model: LossModel, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """A DeepSpeed engine. Raises UserError if DeepSpeed is missing or refuses the settings."""
    deepspeed = loaded("engine.strategy zero2 and zero3 need DeepSpeed", "set it to fsdp2")
    try:
        return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    except (ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"DeepSpeed refuses its settings ({reason})", "correct the file of engine.deepspeed_config") from error


def loaded(what: str, instead: str) -> Any:
    """The package deepspeed, in the process group of this process. Raises UserError, which says `what`, if it is missing."""
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise UserError(what, f"install codelm[deepspeed], or {instead}") from error
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # calls that torch has renamed
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled first; gloo is there
    if not dist.is_initialized():  # one process alone
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed
