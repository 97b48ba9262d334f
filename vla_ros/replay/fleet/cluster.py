"""Bags as tasks of a Ray cluster, which says where each runs and starts those of a lost node again."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Iterable, Iterator
from functools import partial

import ray
from ray.exceptions import RayError, RayTaskError

from vla_ros.replay.fleet.plan import Plan
from vla_ros.replay.fleet.task import Done, Task
from vla_ros.replay.fleet.worker import BagWorker
from vla_ros.strict import explained, one_line

CONNECT_TIMEOUT_S = 10.0
MAX_RETRIES = 3
MAX_PENDING = 1000
"""Tasks at a time, however many bags there are: as many as keep a large cluster at work."""

_workers: dict[str, BagWorker] = {}


def replay_on_ray(plan: Plan, tasks: Iterable[Task], address: str) -> Generator[Done, None, None]:
    """Every task, in the order in which they are done, on the cluster at ``address``; empty: the one that Ray finds,
    else a new one of this machine. Each has the plan's threads and, for a policy on a GPU, one of the cluster's.

    All nodes have this package, and the bags, policies and the robot file under the same paths. Raises ValueError where
    there is no such cluster, and as ``BagWorker`` does.
    """
    _check_that_somebody_listens(address)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--ray {address}: {one_line(error)}") from error
    try:
        num_gpus = 0 if plan.device == "cpu" else 1
        remote = ray.remote(_replay).options(num_cpus=plan.num_threads, num_gpus=num_gpus, max_retries=MAX_RETRIES)
        yield from _all(partial(remote.remote, ray.put(plan)), tasks)
    finally:
        ray.shutdown()


def _check_that_somebody_listens(address: str) -> None:
    """Ray itself would try for ten minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        with explained(f"--ray {address}: ", OSError, OverflowError, after="; expected HOST:PORT of a running cluster"):
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def _all(start: partial[ray.ObjectRef], tasks: Iterable[Task]) -> Iterator[Done]:
    pending: dict[ray.ObjectRef, Task] = {}
    for task in tasks:
        pending[start(task)] = task
        if len(pending) >= MAX_PENDING:
            yield _next(pending)
    while pending:
        yield _next(pending)


def _next(pending: dict[ray.ObjectRef, Task]) -> Done:
    """The result that comes next."""
    (done,), _ = ray.wait(list(pending), num_returns=1)
    task = pending.pop(done)
    try:
        said = ray.get(done)
    except RayTaskError:
        raise
    except RayError as error:  # retried in vain
        return Done(task, lost=f"bag {task.bag}: {one_line(error)}")
    if isinstance(said, str):
        raise ValueError(said)
    return said


def _replay(plan: Plan, task: Task) -> Done | str:
    """One task: the policy stays in memory for the next one of this process. Returns what is wrong, where a ValueError
    would be wrapped in Ray's own."""
    try:
        if plan.key not in _workers:
            os.chdir(plan.folder)
            _workers.clear()
            _workers[plan.key] = BagWorker(plan)
        return _workers[plan.key].replay(task)
    except (ValueError, OSError) as error:
        return one_line(error)
