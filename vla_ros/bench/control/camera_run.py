"""What the policy node costs: three raw cameras of 640x480 at 30 Hz, a chunk about each 200 ms, commands at 50 Hz."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from sensor_msgs.msg import Image

from vla_ros.bench.control.camera_rows import CAMERA_RATE_HZ, CONTROL_RATE_HZ, camera_rows
from vla_ros.bench.control.operator import Operator, driven_by
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.table import Row
from vla_ros.demo.world import WorldConfig, running_world
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import WATCH

PACKAGED_ROBOT = "tabletop"
MAX_SECONDS = 20.0
INFERENCE_DELAY_MS = 150.0
"""The tiny policy's own time and its way make a chunk each 200 ms of it."""


class CameraProbe(ControlProbe):
    """Counts images, too, as the policy node gets them; none of them is decoded."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self.frames_ns: dict[str, list[int]] = {camera.name: [] for camera in robot.cameras}
        for camera in robot.cameras:
            keep = partial(self._keep_frame, self.frames_ns[camera.name])
            self.create_subscription(Image, camera.topic, lambda data, info, keep=keep: keep(info), WATCH, raw=True)

    def _keep_frame(self, frames_ns: list[int], info: dict[str, Any]) -> None:
        frames_ns.append(info["received_timestamp"])


def measure_cameras(config: WorldConfig, seconds: float) -> list[Row]:
    """Drive for so long, at most 20 s, as ``config`` says of strategy and logs; robot file, policy and logs go to its
    folder ``cameras``.

    Raises ValueError where a node ends, cannot start or does not answer.
    """
    from vla_ros.bench.control import camera_policy  # only now: torch would disturb what was measured before

    folder = config.log_dir / "cameras"
    folder.mkdir(parents=True, exist_ok=True)
    robot = camera_policy.write_robot(folder / "robot.yaml", PACKAGED_ROBOT)
    camera_policy.write_policy(folder / "policy", robot)
    gc.collect()
    gc.freeze()  # or the collector walks through torch while images wait to be counted
    robot = replace(robot, control_rate_hz=CONTROL_RATE_HZ)
    config = replace(
        config,
        robot=str(folder / "robot.yaml"),
        policy=str(folder / "policy"),
        inference_delay_ms=INFERENCE_DELAY_MS,
        log_dir=folder,
        control_rate_hz=CONTROL_RATE_HZ,
        task=camera_policy.TASK,
        robot_node="control_cameras",
    )
    with running_world(config, robot, CameraProbe) as world:
        world.bring_up()
        world.drive_once()
        operator = Operator(world)
        span_s = min(seconds, MAX_SECONDS)
        print(f"the policy drives for {span_s:g} s with three cameras of 640x480 at {CAMERA_RATE_HZ} Hz", flush=True)
        drives = operator.drive_for(span_s, lambda: None)
        driven = driven_by(config, drives, world.client)
        return camera_rows(driven, world.client.frames_ns, operator.num_drops, robot)
