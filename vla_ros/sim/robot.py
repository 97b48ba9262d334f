"""The simulated robot behind ``sim_node``: world, controllers, episode, scripted expert. No ROS here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import OutputConfig, RobotConfig
from vla_ros.sim.controller import TrajectoryController
from vla_ros.sim.episode import TouchEpisode
from vla_ros.sim.expert import Expert
from vla_ros.sim.messages import EpisodeStatus, ResetRequest
from vla_ros.sim.scene import Scene, sample_scene
from vla_ros.sim.world import CAMERAS, TabletopWorld, mujoco

VIEW_PIXELS = 384


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


class SimulatedRobot:
    """A ``TabletopWorld`` driven by one trajectory controller for each output group; lives in one thread."""

    def __init__(self, robot: RobotConfig, *, expert: bool = False) -> None:
        check_robot(robot)
        self.world = TabletopWorld(robot.cameras[0].width, robot.cameras[0].height)
        self._columns = {output: robot.columns(output.joints) for output in robot.outputs}
        self._viewer = TabletopWorld(VIEW_PIXELS, VIEW_PIXELS)
        self._view_camera = _whole_table()
        self._with_expert = expert
        self.expert: Expert | None = None

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
        self.episode = TouchEpisode(self.world, scene)
        self.expert = Expert(scene) if self._with_expert else None

    def accept(self, output: OutputConfig, trajectory: Trajectory, age_s: float | None) -> str:
        """Hand ``trajectory`` to the output's controller; ``age_s`` is how long ago it starts (None: now).

        Returns why the controller refuses it, or an empty string.
        """
        now_s = self.world.time_s
        return self._controllers[output].accept(trajectory, now_s, None if age_s is None else now_s - age_s)

    def step(self) -> bool:
        """Advance by ``world.control_dt_s``; returns whether the episode's status changed."""
        before = self.episode.status
        for output, controller in self._controllers.items():
            self._targets[self._columns[output]] = controller.sample(self.world.time_s + self.world.control_dt_s)[0]
        self.world.step(self._targets)
        self.num_steps += 1
        return self.episode.update() != before

    def view(self) -> np.ndarray:
        """A larger picture for people of joints and blocks as they are: uint8 ``[VIEW_PIXELS, VIEW_PIXELS, 3]``."""
        blocks = []
        for block in self.scene.blocks:
            x_m, y_m, _ = self.world.block_top(block.color)
            blocks.append(replace(block, x_m=float(x_m), y_m=float(y_m)))
        now = replace(self.scene, blocks=tuple(blocks), start_joint_positions=self.world.joint_positions)
        self._viewer.reset(now)
        return self._viewer.render(self._view_camera)

    def close(self) -> None:
        """Free the rendering contexts."""
        self.world.close()
        self._viewer.close()

    def status(self, number: int) -> EpisodeStatus:
        """How the episode is going; ``number`` counts the resets."""
        scene, elapsed_s = self.scene, round(self.episode.elapsed_s, 3)
        return EpisodeStatus(scene.seed, self.instruction, scene.target_color, self.episode.status, elapsed_s, number)


def _whole_table() -> mujoco.MjvCamera:
    """A camera for people, not one of the robot's: arm and blocks as somebody at the table sees them."""
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.26, 0.0, 0.15)
    camera.azimuth, camera.elevation, camera.distance = 158.0, -45.0, 1.2
    return camera
