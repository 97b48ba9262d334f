"""The simulated robot behind ``sim_node``: world, controllers, episode, scripted expert. No ROS here."""

from __future__ import annotations

import numpy as np

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import OutputConfig
from vla_ros.sim.controller import TrajectoryController
from vla_ros.sim.expert import Expert
from vla_ros.sim.scene import EpisodeStatus, ResetRequest, Scene, sample_scene
from vla_ros.sim.world import CAMERAS, TabletopWorld

VIEW_PIXELS = 384
TOUCH_RADIUS_M = 0.025
TOUCH_TIME_S = 0.5
TIME_LIMIT_S = 8.0


def check_robot(robot: RobotConfig) -> None:
    """Raises ValueError where the robot file is not one that the simulated arm can be."""
    where = f"robot '{robot.name}'"
    if robot.joint_names != TabletopWorld.joint_names:
        raise ValueError(f"{where} has joints {robot.joint_names}; the simulated arm has {TabletopWorld.joint_names}")
    unknown = [name for name in robot.camera_names if name not in CAMERAS]
    if unknown:
        raise ValueError(f"{where} has camera '{unknown[0]}'; the simulation has {', '.join(CAMERAS)}")
    sizes = {(camera.width, camera.height) for camera in robot.cameras}
    if len(sizes) != 1:
        raise ValueError(f"{where} has cameras of sizes {sorted(sizes)}; the simulation renders one size")


class TouchEpisode:
    """Watches the tip: ``status`` is running, success, wrong_block or timeout.

    Success is ``TOUCH_TIME_S`` without a break within ``TOUCH_RADIUS_M`` of the named block's top; as long on another
    block first is ``wrong_block``.
    """

    def __init__(self, world: TabletopWorld, scene: Scene) -> None:
        self._world = world
        self._scene = scene
        self._start_s = world.time_s
        self._on_block = ""
        self._since_s = world.time_s
        self.status = "running"
        self.elapsed_s = 0.0

    def update(self) -> str:
        """Look once, after a simulation step; returns ``status``, which does not change once it is not running."""
        if self.status != "running":
            return self.status
        now_s = self._world.time_s
        self.elapsed_s = now_s - self._start_s
        touched = self._touched()
        if touched != self._on_block:
            self._on_block, self._since_s = touched, now_s
        if touched and now_s - self._since_s >= TOUCH_TIME_S - 1e-9:
            self.status = "success" if touched == self._scene.target_color else "wrong_block"
        elif self.elapsed_s >= TIME_LIMIT_S:
            self.status = "timeout"
        return self.status

    def _touched(self) -> str:
        tip = self._world.tip_position
        for block in self._scene.blocks:
            if np.linalg.norm(tip - self._world.block_top(block.color)) <= TOUCH_RADIUS_M:
                return block.color
        return ""


class SimulatedRobot:
    """A ``TabletopWorld`` driven by one trajectory controller for each output group; lives in one thread."""

    def __init__(self, robot: RobotConfig) -> None:
        check_robot(robot)
        self.world = TabletopWorld(robot.cameras[0].width, robot.cameras[0].height)
        self.num_resets = 0
        self._columns = {output: robot.columns(output.joints) for output in robot.outputs}

    def reset(self, request: ResetRequest) -> None:
        """Put arm and blocks into the requested scene, start its episode. Raises ValueError for an unknown target."""
        scene = sample_scene(request.seed, "eval")
        if request.target is not None:
            scene = scene.with_target(request.target)
        self.scene: Scene = scene
        self.instruction = scene.instruction if request.instruction is None else request.instruction
        self.world.reset(scene)
        start = np.asarray(scene.start_joint_positions, dtype=np.float64)
        self._controllers = {output: TrajectoryController(start[rows]) for output, rows in self._columns.items()}
        self._targets = start.copy()
        self.num_steps = 0
        self.num_resets += 1
        self.episode = TouchEpisode(self.world, scene)
        self.expert = Expert(scene)

    def accept(self, output: OutputConfig, trajectory: Trajectory, age_s: float | None = None) -> None:
        """Hand ``trajectory`` to the output's controller; ``age_s`` is how long ago it starts (None: now). Raises
        ValueError where the controller refuses it."""
        now_s = self.world.time_s
        self._controllers[output].accept(trajectory, now_s, None if age_s is None else now_s - age_s)

    def step(self) -> bool:
        """Advance by ``world.control_dt_s``; returns whether the episode's status changed."""
        before = self.episode.status
        for output, controller in self._controllers.items():
            self._targets[self._columns[output]] = controller.sample(self.world.time_s + self.world.control_dt_s)[0]
        self.world.step(self._targets)
        self.num_steps += 1
        return self.episode.update() != before

    def view(self) -> np.ndarray:
        """A larger picture for people, as somebody at the table sees it, the block that is named on a disc: uint8
        ``[VIEW_PIXELS, VIEW_PIXELS, 3]``."""
        return self.world.render("people", (VIEW_PIXELS, VIEW_PIXELS), self.scene.target_color)

    @property
    def status(self) -> EpisodeStatus:
        """How the episode is going."""
        scene, status, elapsed_s = self.scene, self.episode.status, round(self.episode.elapsed_s, 3)
        return EpisodeStatus(scene.seed, self.instruction, scene.target_color, status, elapsed_s, self.num_resets)
