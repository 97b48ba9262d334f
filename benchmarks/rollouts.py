"""Episodes of the demo in simulated time: the same loop, processor, policy, arm and judge as the live nodes, without
ROS.

Every latency is what it is told to be, so an episode ends the same way however busy the machine is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

NS_PER_S = 1_000_000_000
JOINT_STATE_STEPS, CAMERA_STEPS = 2, 5  # those of sim_node


@dataclass(frozen=True)
class Rollout:
    """One episode: the demo's scene ``seed``, and how long an answer takes after its request, ms. ``is_guided`` asks a
    policy that knows frozen actions to be guided by gradients all the same."""

    policy: str
    strategy: str
    latency_ms: float
    seed: int
    is_guided: bool = False


@dataclass(frozen=True)
class Outcome:
    """How it ended; ``num_late`` chunks came later than predicted, ``events`` are the loop's."""

    rollout: Rollout
    status: str
    elapsed_s: float
    num_chunks: int
    num_late: int
    events: tuple[str, ...]


def run_rollouts(rollouts: Sequence[Rollout], num_workers: int) -> Iterator[Outcome]:
    """Each one's outcome, in order."""
    # spawn: an EGL context and a thread pool do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(num_workers, initializer=_use_one_core) as pool:
        yield from pool.imap(_run, rollouts)


def _use_one_core() -> None:
    os.environ["LP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _run(rollout: Rollout) -> Outcome:
    return _Episode(rollout).run()


_loaded: dict[Any, Any] = {}


def _load(rollout: Rollout) -> tuple[Any, Any, Any]:
    """Robot, processor and policy, made once in each worker."""
    key = (rollout.policy, rollout.is_guided)
    if key not in _loaded:
        import torch

        from vla_ros.execution.runner import PolicyRunner
        from vla_ros.policies.directory import load_policy
        from vla_ros.policies.files import load_processor
        from vla_ros.robot import load_robot
        from vla_ros.share import policy_dir, robot_file
        from vla_ros.sim.robot import SimulatedRobot

        folder = policy_dir(rollout.policy)
        loaded = load_policy(folder, "cpu")
        if rollout.is_guided:
            loaded.policy.config = replace(loaded.policy.config, max_frozen_actions=0)
        runner = PolicyRunner(loaded.policy, torch.device("cpu"))
        robot = load_robot(robot_file("tabletop"))
        _loaded[key] = (SimulatedRobot(robot), robot), load_processor(folder), runner
    return _loaded[key]


class _Episode:
    """Hears the nodes, hands their commands to the simulated arm."""

    def __init__(self, rollout: Rollout) -> None:
        from vla_ros.replay.offline import OfflineNodes
        from vla_ros.runtime.loop import ControlLoop, LoopSettings

        (self._simulated, self._robot), processor, runner = _load(rollout)
        self._rollout = rollout
        self._loop = ControlLoop(self._robot, LoopSettings(self._robot.control_rate_hz, strategy=rollout.strategy))
        self._period_ns = round(NS_PER_S / self._robot.control_rate_hz)
        self._start_ns = (1 + rollout.seed) * 1000 * NS_PER_S  # noise is seeded by the stamps: another for each scene
        self._num_chunks, self._events = 0, []
        self._nodes = OfflineNodes(
            self._loop,
            processor,
            lambda request: runner.run(request).actions,
            round(rollout.latency_ms * 1e6),
            self,
            self._start_ns,
            self._period_ns,
        )

    def run(self) -> Outcome:
        from vla_ros.sim.scene import ResetRequest
        from vla_ros.types import Mode

        simulated, step_ns = self._simulated, round(self._simulated.world.control_dt_s * NS_PER_S)
        simulated.reset(ResetRequest(self._rollout.seed))
        self._loop.sensors.task = simulated.instruction
        is_engaged = False
        while simulated.episode.status == "running":
            now_ns = self._start_ns + simulated.num_steps * step_ns
            self._sense(now_ns)
            if not is_engaged and not self._loop.engage(now_ns):
                is_engaged = True
                self._nodes.ask(now_ns)
            elif is_engaged and self._loop.mode is not Mode.POLICY:
                break
            self._nodes.run_until(now_ns + step_ns)
            simulated.step()
        status = simulated.episode.status
        return Outcome(
            self._rollout,
            "held" if status == "running" else status,
            round(simulated.episode.elapsed_s, 2),
            self._num_chunks,
            self._loop.num_late_chunks,
            tuple(self._events),
        )

    def _sense(self, now_ns: int) -> None:
        from vla_ros.types import Frame, JointSample

        world, sensors = self._simulated.world, self._loop.sensors
        if self._simulated.num_steps % JOINT_STATE_STEPS == 0:
            sensors.joints.add(JointSample(now_ns, world.joint_positions, world.joint_velocities))
        if self._simulated.num_steps % CAMERA_STEPS == 0:
            for camera in self._robot.camera_names:
                sensors.cameras[camera].add(Frame(camera, now_ns, now_ns, world.render(camera)))
            self._nodes.ask(now_ns)

    def ticked(self, now_ns: int, tick: Any) -> None:
        from vla_ros.messages.trajectories import Trajectory

        self._events += tick.events
        if tick.ramp is None:
            return
        times_s = self._period_ns / NS_PER_S + tick.ramp.times_s
        for output in self._robot.outputs:
            columns = [self._robot.joint_names.index(name) for name in output.joints]
            ramp = tick.ramp.positions[:, columns], tick.ramp.velocities[:, columns]
            self._simulated.accept(output, Trajectory(0, times_s, *ramp))

    def answered(self, answer: Any, request: Any) -> None:
        self._num_chunks += 1

    def failed(self, now_ns: int, problem: str) -> None:
        self._events.append(problem)
