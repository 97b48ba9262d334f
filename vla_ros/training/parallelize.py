"""What is done to a policy before it is trained, in this order: checkpointing, compilation, sharding."""

from __future__ import annotations

from functools import partial

import torch
from torch.distributed.device_mesh import init_device_mesh

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.utils.training import checkpointed, shard, with_own_method, wrap_method
from vla_ros.training.processes import Processes


def parallelize(
    policy: BasePolicy,
    processes: Processes,
    device: torch.device,
    checkpoint_layers: bool = False,
    compile_layers: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Prepare a policy on ``device``, in place; the names of its weights stay.

    Sharding goes over the processes of a machine, and the machines hold copies. ``dtype`` is what a pass computes in:
    where that isn't the weights' own, one process alone is sharded, too, and gathers them in that type.
    """
    layers, is_sharded = policy.layers(), processes.num > 1 or dtype != torch.float32
    if checkpoint_layers or compile_layers or is_sharded:
        layers = tuple(with_own_method(layer) for layer in layers)
    if checkpoint_layers:
        for layer in layers:
            wrap_method(layer, checkpointed)
    if compile_layers:
        for layer in layers:
            wrap_method(layer, partial(torch.compile, fullgraph=True))
    if is_sharded:
        sizes = {"machines": processes.num // processes.num_local, "processes": processes.num_local}
        if sizes["machines"] == 1:
            del sizes["machines"]
        mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        shard(policy, layers, mesh, dtype)
