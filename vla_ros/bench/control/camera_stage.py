"""What the policy node costs: three raw cameras of 640x480 at 30 Hz, a chunk about each 200 ms, commands at 50 Hz."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sensor_msgs.msg import Image

from vla_ros.bench.control.camera_rows import CAMERA_RATE_HZ, CONTROL_RATE_HZ, CameraDrives, camera_rows
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.stage import Stage
from vla_ros.bench.control.table import Row
from vla_ros.demo.world import WorldConfig, running_world
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import WATCH

PACKAGED_ROBOT = "tabletop"
MAX_SECONDS = 20.0
INFERENCE_DELAY_MS = 150.0
"""The tiny policy's own time and its way make a chunk each 200 ms of it."""


class CameraProbe(ControlProbe):
    """Counts images too, beside the policy node; none of them is decoded."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self.frames_ns: dict[str, list[int]] = {camera.name: [] for camera in robot.cameras}
        for camera in robot.cameras:
            keep = partial(self._keep_frame, self.frames_ns[camera.name])
            self.create_subscription(Image, camera.topic, lambda data, info, keep=keep: keep(info), WATCH, raw=True)

    def _keep_frame(self, frames_ns: list[int], info: dict[str, Any]) -> None:
        frames_ns.append(info["received_timestamp"])


@dataclass(frozen=True)
class _CameraWorldConfig(WorldConfig):
    """The same two nodes, with a robot of cameras only in place of the simulated one."""

    task: str = ""

    @property
    def nodes(self) -> Mapping[str, Mapping[str, object]]:
        return {
            "control_cameras": {"robot": self.robot},
            "model_node": self.model_params,
            "policy_node": {**self.policy_params, "task": self.task},
        }


def run_camera_stage(seconds: float, strategy: str, log_dir: Path) -> list[Row]:
    """Drive for so long, at most 20 s; robot file, policy and logs go to ``log_dir/cameras``.

    Raises ValueError where a node ends, cannot start or does not answer.
    """
    from vla_ros.bench.control import camera_policy  # only now: torch must not lie beside what was measured before

    folder = log_dir / "cameras"
    folder.mkdir(parents=True, exist_ok=True)
    robot = camera_policy.write_robot(folder / "robot.yaml", PACKAGED_ROBOT)
    camera_policy.write_policy(folder / "policy", robot)
    gc.collect()
    gc.freeze()  # or the collector walks through torch while images wait to be counted
    robot = replace(robot, control_rate_hz=CONTROL_RATE_HZ)
    config = _CameraWorldConfig(
        robot=str(folder / "robot.yaml"),
        policy=str(folder / "policy"),
        strategy=strategy,
        inference_delay_ms=INFERENCE_DELAY_MS,
        seed=0,
        view=False,
        log_dir=folder,
        control_rate_hz=CONTROL_RATE_HZ,
        task=camera_policy.TASK,
    )
    with running_world(config, robot, CameraProbe) as world:
        world.bring_up()
        world.drive_once()
        stage = Stage(world)
        span_s = min(seconds, MAX_SECONDS)
        print(f"the policy drives for {span_s:g} s with three cameras of 640x480 at {CAMERA_RATE_HZ} Hz", flush=True)
        drives = stage.drive_for(span_s, lambda: None)
        probe = world.client
        seen = CameraDrives(drives, probe.commands(), probe.chunks(), probe.frames_ns, stage.num_drops)
    return camera_rows(seen, robot)
