"""Episodes of the demo in simulated time: the same loop, processor, policy, arm and judge as the live nodes, without
ROS.

Every latency is what it is told to be, so an episode ends the same way however busy the machine is.
"""

from __future__ import annotations

import math
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
    policy that knows frozen actions to be guided by gradients all the same. The front camera stands ``camera_off_m``
    to the side of its place; after ``limit_s`` it is over, and after the demo's own time limit."""

    policy: str
    strategy: str
    latency_ms: float
    seed: int
    is_guided: bool = False
    camera_off_m: float = 0.0
    limit_s: float = math.inf


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
    with multiprocessing.get_context("spawn").Pool(num_workers, initializer=use_one_core) as pool:
        yield from pool.imap(_run, rollouts)


def use_one_core() -> None:
    os.environ["LP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _run(rollout: Rollout) -> Outcome:
    return Episode(rollout).run()


_loaded: dict[Any, Any] = {}


def _load(rollout: Rollout) -> tuple[Any, Any, Any]:
    """Robot, processor and policy, made once in each worker."""
    key = (rollout.policy, rollout.is_guided, rollout.camera_off_m)
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
        simulated = SimulatedRobot(robot)
        simulated.world.move_camera("front", (0.0, rollout.camera_off_m, 0.0))
        _loaded[key] = (simulated, robot), load_processor(folder), runner
    return _loaded[key]


class Episode:
    """Hears the nodes, hands their commands to the simulated arm."""

    def __init__(self, rollout: Rollout) -> None:
        from vla_ros.replay.offline import OfflineNodes
        from vla_ros.runtime.loop import ControlLoop, LoopSettings

        (self.simulated, self.robot), processor, runner = _load(rollout)
        self.rollout = rollout
        settings = LoopSettings(self.robot.control_rate_hz, strategy=rollout.strategy, shadow=False)
        self.loop = ControlLoop(self.robot, settings)
        self.period_ns = round(NS_PER_S / self.robot.control_rate_hz)
        self.start_ns = (1 + rollout.seed) * 1000 * NS_PER_S  # noise is seeded by the stamps: another for each scene
        self.is_engaged = False
        self._num_chunks, self._events = 0, []
        self._nodes = OfflineNodes(
            self.loop,
            processor,
            lambda request: runner.run(request).actions,
            round(rollout.latency_ms * 1e6),
            self,
            self.start_ns,
            self.period_ns,
        )

    def run(self) -> Outcome:
        from vla_ros.sim.scene import ResetRequest
        from vla_ros.types import Mode

        simulated, step_ns = self.simulated, round(self.simulated.world.control_dt_s * NS_PER_S)
        simulated.reset(ResetRequest(self.rollout.seed))
        self.begin()
        self.loop.sensors.task = simulated.instruction
        while not self.is_over(now_ns := self.start_ns + simulated.num_steps * step_ns):
            self.sense(now_ns)
            if not self.is_engaged and not self.loop.engage(now_ns):
                self.is_engaged = True
                self._nodes.ask(now_ns)
            self._nodes.run_until(now_ns + step_ns)
            simulated.step()
        status = simulated.episode.status
        left = "held" if self.loop.mode is not Mode.POLICY else "timeout"
        return Outcome(
            self.rollout,
            left if status == "running" else status,
            round(simulated.episode.elapsed_s, 2),
            self._num_chunks,
            self.loop.num_late_chunks,
            tuple(self._events),
        )

    def begin(self) -> None:
        """The scene is there, and nothing has moved yet."""

    def is_over(self, now_ns: int) -> bool:
        """Whether it has ended."""
        from vla_ros.types import Mode

        is_held = self.is_engaged and self.loop.mode is not Mode.POLICY
        is_late = now_ns - self.start_ns >= self.rollout.limit_s * NS_PER_S
        return is_held or is_late or self.simulated.episode.status != "running"

    def sense(self, now_ns: int) -> None:
        """What is measured now reaches the loop."""
        from vla_ros.types import Frame, JointSample

        world, sensors = self.simulated.world, self.loop.sensors
        if self.simulated.num_steps % JOINT_STATE_STEPS == 0:
            sensors.joints.add(JointSample(now_ns, world.joint_positions, world.joint_velocities))
        if self.simulated.num_steps % CAMERA_STEPS == 0:
            for camera in self.robot.camera_names:
                sensors.cameras[camera].add(Frame(camera, now_ns, now_ns, self.look(camera, now_ns)))
            self._nodes.ask(now_ns)

    def look(self, camera: str, now_ns: int) -> Any:
        """What a camera sees now."""
        return self.simulated.world.render(camera)

    def ticked(self, now_ns: int, tick: Any) -> None:
        from vla_ros.messages.trajectories import Trajectory

        self._events += tick.events
        if tick.ramp is None:
            return
        times_s = self.period_ns / NS_PER_S + tick.ramp.times_s
        for output in self.robot.outputs:
            columns = [self.robot.joint_names.index(name) for name in output.joints]
            ramp = tick.ramp.positions[:, columns], tick.ramp.velocities[:, columns]
            self.simulated.accept(output, Trajectory(0, times_s, *ramp))

    def answered(self, answer: Any, request: Any) -> None:
        self._num_chunks += 1

    def failed(self, now_ns: int, problem: str) -> None:
        self._events.append(problem)
