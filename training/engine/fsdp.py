"""FSDP2: every rank has a part of each weight, of its gradient and of its optimiser state."""

import contextlib
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from training.engine.loss_model import LossModel, blocks
from training.engine.precision import DTYPES
from training.engine.strategy import Replicated
from training.optimizers import cut_up, gathered


class FullySharded(Replicated):
    """`fully_shard` on each block and on what is around the blocks.

    Blocks are gathered in the dtype of autocast, which halves the traffic and changes no product; what is around them, the
    embedding and the last norm, stays float32, as it does under autocast. Gradients are reduced in float32.
    """

    cuts_weights = True

    def spread(self, loss_model: LossModel) -> torch.nn.Module:
        loss_model.to(self.device)
        names = {parameter: name for name, parameter in loss_model.named_parameters()}
        mesh = init_device_mesh(self.device.type, (self.accelerator.num_processes,))
        dtype = DTYPES.get(self.precision)
        narrow = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks(self.model):
            fully_shard(block, mesh=mesh, mp_policy=narrow)
        fully_shard(loss_model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
        cut_up = dict(loss_model.named_parameters())
        for group in self.optimizer.param_groups:
            group["params"] = [cut_up[names[parameter]] for parameter in group["params"]]
        return loss_model

    def without_reduction(self) -> contextlib.AbstractContextManager[Any]:
        # a whole gradient on every rank until the last micro-batch is what sharding is there to avoid
        return contextlib.nullcontext()

    def step(self) -> torch.Tensor | float:
        return self.whole(torch.as_tensor(super().step()))

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return gathered(tensor).detach()

    def part(self, whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        # every rank has read the whole tensor, so none has to be sent
        return cut_up(whole.to(self.device, copy=True), parameter)
