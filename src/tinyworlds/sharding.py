"""FSDP2: each process keeps its share of the weights, gradients and optimizer state (arXiv 2304.11277).

Lightning's strategy for it with two things settled: all processes share the work on the batch, and a checkpoint is one
file, the same as every other strategy writes and reads.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from tinyworlds.nn.block import Block

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
ENTRANCES = ("training_step", "validation_step", "pictures")
"""Methods of a stage that Lightning or a callback calls instead of `forward`."""


def shard(stage: nn.Module, mesh: DeviceMesh) -> None:
    """Shard what is trained over `mesh`: each transformer block by itself, then the rest together.

    A block is whole only while it computes. Frozen tokenizers are left as they are, on every process.
    """
    for module in stage.modules():
        if isinstance(module, Block) and next(module.parameters()).requires_grad:
            fully_shard(module, mesh=mesh)
            register_fsdp_forward_method(module, "remember")
    frozen = {parameter for parameter in stage.parameters() if not parameter.requires_grad}
    fully_shard(stage, mesh=mesh, ignored_params=frozen)
    for method in ENTRANCES:
        register_fsdp_forward_method(stage, method)


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2, over all processes; its checkpoints are those of one process."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Of the whole model, on rank 0, with parameters numbered by their place in the groups, as torch does it."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        assert self.model is not None
        state: dict[str, Any] = dict(get_optimizer_state_dict(self.model, optimizer, options=WHOLE))
        if not state:
            return state
        groups = state["param_groups"]
        number = {name: place for place, name in enumerate(chain.from_iterable(group["params"] for group in groups))}
        return {
            "state": {number[name]: values for name, values in state["state"].items()},
            "param_groups": [{**group, "params": [number[name] for name in group["params"]]} for group in groups],
        }

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load what any strategy saved; every process takes its shares of it."""
        checkpoint: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only
        )
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
            saved = chain.from_iterable(group["params"] for group in state["param_groups"])
            name_of = dict(zip(saved, chain.from_iterable(groups), strict=True))
            named = {
                "state": {name_of[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": own} for group, own in zip(state["param_groups"], groups, strict=True)
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, named, options=WHOLE)  # type: ignore[arg-type]  # the state is typed as of torch's own
        return checkpoint
