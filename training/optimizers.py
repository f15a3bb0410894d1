"""AdamW, and Muon for the hidden matrices."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw as adamw_step

from codelm.config.pretrain import PretrainConfig
from codelm.models import fast_dtype

Group = dict[str, Any]


def build_optimizer(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run. Each of its groups carries `peak_lr`, which the schedule scales."""
    optimizer: torch.optim.Optimizer = muon(model, config) if config.optimizer == "muon" else adamw(model, config)
    if config.ema is not None:
        keep_average(optimizer, config.ema)
    return optimizer


def adamw(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) with decay on matrices only; fused where torch has a fused kernel for the device."""
    groups = adamw_groups(trainable(model), config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def muon(model: torch.nn.Module, config: PretrainConfig) -> "Muon":
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    parameters = trainable(model)
    hidden = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in hidden}
    matrices = {
        "params": hidden, "kind": "muon", "peak_lr": config.muon_learning_rate, "momentum": config.momentum,
        "weight_decay": config.weight_decay,
    }  # fmt: skip
    others = adamw_groups([p for p in parameters if id(p) not in chosen], config)
    return Muon([matrices, *({**group, "kind": "adamw", "betas": config.betas} for group in others)])


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adamw_groups(parameters: Iterable[torch.nn.Parameter], config: PretrainConfig) -> list[Group]:
    """Matrices, which decay, and the rest, which does not."""
    by_decay: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in parameters:
        by_decay[parameter.ndim >= 2].append(parameter)
    return [
        {"params": group, "weight_decay": config.weight_decay if decays else 0.0, "peak_lr": config.learning_rate}
        for decays, group in by_decay.items()
    ]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: the update of each matrix has singular values near 1 (kellerjordan.github.io/posts/muon).

    Groups of kind "muon" hold matrices, groups of kind "adamw" everything else, so that a run has one optimiser.
    torch's own Muon iterates one matrix after the other and always in bfloat16, which a CPU without such instructions only
    emulates; here matrices of one shape go through the iteration together, in the dtype that the device is fast in.
    """

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all groups by their `lr`."""
        for group in self.param_groups:
            if group["kind"] == "muon":
                self.muon_step(group)
            else:
                self.adamw_step(group)

    def muon_step(self, group: Group) -> None:
        """Nesterov momentum, orthogonalised, scaled by √(rows / columns) where that is more than 1; decoupled decay."""
        by_shape: dict[tuple[int, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[tuple(sorted(parameter.shape))].append(parameter)
        for parameters in by_shape.values():
            gradients = [p.grad for p in parameters if p.grad is not None]
            momenta: list[torch.Tensor] = []
            for parameter in parameters:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momenta.append(state["momentum"])
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            whole = map(gathered, updates)
            wide = [u if p.shape[0] <= p.shape[1] else u.T for p, u in zip(parameters, whole, strict=True)]
            orthogonal = orthogonalized(torch.stack(wide))
            for parameter, update in zip(parameters, orthogonal, strict=True):
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = cut_up(update if rows <= columns else update.T, parameter)
                parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def adamw_step(self, group: Group) -> None:
        """torch's own AdamW."""
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            if "exp_avg" not in self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        states = [self.state[p] for p in parameters]
        adamw_step(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that FSDP2 has cut up among the ranks, which all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_up(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor that every rank has, if it is cut up as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


AVERAGE, WEIGHT = "average", "average_weight"
"""Names in the optimiser's state: a running sum of a parameter's values, and the sum of what they were weighted by."""


def keep_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Makes an optimiser remember a running mean of the weights, which is saved and cut up as its moments are."""

    @torch.no_grad()
    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if (overflow := getattr(optimizer, "found_inf", None)) is not None and overflow.item():
            return  # a fused optimiser is called for steps that are left out, too
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if AVERAGE not in state:
                    state[AVERAGE], state[WEIGHT] = torch.zeros_like(parameter), torch.zeros((), device=parameter.device)
                state[AVERAGE].lerp_(parameter, 1 - decay)
                state[WEIGHT].lerp_(torch.ones_like(state[WEIGHT]), 1 - decay)

    optimizer.register_step_post_hook(after_step)


def averages(moments: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The averaged weights among what an optimiser remembers of each parameter; none if it keeps none.

    As Adam's moments they begin at zero, and are divided by the sum of the weights (arXiv 1412.6980, section 3).
    """
    return {name: state[AVERAGE] / state[WEIGHT].clamp(min=1e-12) for name, state in moments.items() if AVERAGE in state}


def without_averages(moments: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """What an optimiser remembers but for the averages: of a run that goes on without one, which would grow old."""
    dropped = (AVERAGE, WEIGHT)
    # their order stays: ranks gather them one by one, all in the same
    return {name: {key: value for key, value in state.items() if key not in dropped} for name, state in moments.items()}


POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Coefficients of the quintic that is optimal at each step (arXiv 2505.16932, algorithm 1), before the safety factor."""
SAFETY = 1.01


def orthogonalized(matrices: torch.Tensor, steps: int = len(POLAR_EXPRESS)) -> torch.Tensor:
    """The orthogonal factor of the polar decomposition of each matrix, about.

    matrices: (count, rows, columns), rows ≤ columns. Odd polynomials of the matrix, whose coefficients are those of Polar
    Express; singular values end between 0.7 and 1.2. Computed in what the device is fast in, bfloat16 where it can.
    """
    norms = matrices.norm(dim=(-2, -1), keepdim=True)
    x = (matrices / (norms * SAFETY + 1e-7)).to(fast_dtype(matrices.device))  # first divided: float16 has no small gradients
    for number, (a, b, c) in enumerate(POLAR_EXPRESS[:steps]):
        if number < steps - 1:
            a, b, c = a / SAFETY, b / SAFETY**3, c / SAFETY**5  # noqa: PLW2901
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
