"""The processes of a run: those that ``torchrun`` started, or this one alone, in a group of one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from vla_ros.strict import one_line

FAILED = 2
"""The exit code of a process that has nothing to say because another one has said it."""
FIRST_FAILURE = "vla_ros/failures"


@dataclass(frozen=True)
class Processes:
    """Where this process stands among ``num``, and among the ``num_local`` of this machine."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    num_local: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def share(self, num_samples: int) -> slice:
        """This process's part of a batch. Raises ValueError where there is no equal part for each."""
        if num_samples % self.num:
            got = f"a batch has {num_samples} samples for {self.num} processes"
            raise ValueError(f"{got}; expected a multiple: set optimizer.batch_size, or --nproc-per-node of torchrun")
        size = num_samples // self.num
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum(self, values: Any) -> np.ndarray:
        """Numbers of each process, float64, added up on the host."""
        total = torch.tensor(np.asarray(values, np.float64))
        dist.all_reduce(total)
        return total.numpy()

    def wait(self) -> None:
        """Until every process has come as far."""
        self.sum(0.0)


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the group. What goes wrong in one process ends all, and one of them says what it was.

    Raises ValueError where a process of the group has ended, or can't be reached.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if not dist.is_torchelastic_launched():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield Processes()
        finally:
            dist.destroy_process_group()
        return
    local_rank, num_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    store, rank, num = next(iter(dist.rendezvous("env://")))
    try:
        dist.init_process_group(backend, store=dist.PrefixStore("vla_ros", store), rank=rank, world_size=num)
        yield Processes(rank, num, local_rank, num_local)
        dist.destroy_process_group()
    except (ValueError, KeyboardInterrupt, RuntimeError) as error:
        is_lost = isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, dist.DistError))
        if isinstance(error, RuntimeError) and not is_lost:
            raise  # a mistake of this program
        if not _is_first_to_fail(store):
            sys.stdout.flush()
            time.sleep(1.0)  # torchrun ends all when one ends, and another has something to say
            os._exit(FAILED)  # without waiting for what the others would still have to send
        if is_lost:
            problem = one_line(error, 200)
            raise ValueError(f"another process of this run has ended, so none can go on: {problem}") from error
        raise


def _is_first_to_fail(store: dist.Store) -> bool:
    try:
        return store.add(FIRST_FAILURE, 1) == 1
    except RuntimeError:  # the store has ended with what kept it
        return False


def whole(state: Any) -> Any:
    """Nested containers with each spread tensor gathered; every process has to ask."""
    return tree_map(lambda value: value.full_tensor() if isinstance(value, DTensor) else value, state)
