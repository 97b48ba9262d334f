"""Bags shared out to processes: what is left of an interrupt, of a killed worker and of a lost node of a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from vla_ros.replay.fleet.plan import Plan
from vla_ros.replay.fleet.processes import replay_in_processes
from vla_ros.replay.fleet.run import replay_here
from vla_ros.replay.fleet.task import Task
from vla_ros.replay.session import SessionConfig
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import load_robot
from vla_ros.share import policy_dir, robot_file

GOLDEN = Path(__file__).parents[1] / "data" / "tabletop_touch"
SOURCE = Path(__file__).parents[2]


def copies(folder: Path, num: int) -> tuple[str, ...]:
    return tuple(str(shutil.copytree(GOLDEN, folder / f"bag{i}")) for i in range(num))


def tasks_of(bags: tuple[str, ...]) -> list[Task]:
    return [Task(bag, (0,)) for bag in bags]


def plan_of(bags: tuple[str, ...]) -> Plan:
    robot = robot_file("tabletop")
    config = SessionConfig(tuple(map(Path, bags)), (policy_dir("tiny_touch"),), load_robot(robot), ReplaySettings())
    return Plan.of(config, robot)


def wait_for_the_end_of(group: int) -> None:
    """Of all its processes, Python's own for shared resources among them, which ends when it notices."""
    with pytest.raises(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(0.01)


def test_a_killed_worker_s_bag_is_replayed_by_another(tmp_path: Path) -> None:
    bags = copies(tmp_path, 2)
    replaying = replay_in_processes(plan_of(bags), tasks_of(bags), 1)
    done = [next(replaying)]
    (worker,) = active_children()
    os.kill(worker.pid, signal.SIGKILL)
    done += replaying
    assert sorted(one.task.bag for one in done) == list(bags) and not any(one.lost or one.is_refused for one in done)
    assert not active_children()


def test_an_interrupt_ends_all_processes_and_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    bags, results = copies(tmp_path, 4), tmp_path / "results"
    command = [sys.executable, "-m", "vla_ros.cli", "replay", *bags, "--results", str(results), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(results.glob("*.safetensors")):
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and said.splitlines()[-1] == "vla_ros replay: interrupted" and "Traceback" not in said
    wait_for_the_end_of(run.pid)
    there = len(list(results.glob("*.safetensors")))
    assert 0 < there < 4 and not list(results.glob(".*"))
    again = subprocess.run([*command[:-2], "--shard", "1/1"], env=environment, stdout=subprocess.PIPE, text=True)
    assert again.returncode == 0 and f"{4 - there} bags replayed" in again.stdout
    assert f"{there} had a result already" in again.stdout


def test_a_ray_cluster_gives_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'vla_ros[ray]'")
    from vla_ros.replay.fleet.cluster import replay_on_ray

    bags = copies(tmp_path, 3)
    plan = plan_of(bags)
    for port in ("1", "99999"):
        with pytest.raises(ValueError, match=f"--ray 127.0.0.1:{port}: .* expected HOST:PORT of a running cluster"):
            next(replay_on_ray(plan, tasks_of(bags), f"127.0.0.1:{port}"))
    on_ray = sorted(replay_on_ray(plan, tasks_of(bags), ""), key=lambda done: done.task.bag)
    assert on_ray == list(replay_here(plan, tasks_of(bags)))
