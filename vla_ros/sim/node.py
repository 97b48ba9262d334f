"""``sim_node``: the simulated table-top arm as a robot under ROS 2: cameras, joint states, a trajectory controller."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.messages.images import encode_compressed_image, encode_image
from vla_ros.messages.joints import fill_joint_state
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import interface_class, make_publisher, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.qos import CAMERA, COMMAND, JOINT_STATES
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.sim.scene import ResetRequest, parse_reset
from vla_ros.strict import one_line
from vla_ros.units import MS_PER_NS, NS_PER_S

if TYPE_CHECKING:
    from vla_ros.sim.robot import SimulatedRobot

JOINT_STATE_STEPS = 2
CAMERA_STEPS = 5
EXPERT_STEPS = 4
MAX_LATE_NS = 200_000_000
EGL_PACKAGES = "libegl1 libopengl0 libgl1-mesa-dri"


@dataclass(frozen=True)
class SimParams(NodeParameters):
    """Of ``sim_node``."""

    robot: str = robot_parameter()
    seed: int = parameter(0, "Evaluation scene to start with.")
    expert: bool = parameter(False, "The scripted expert publishes commands, as a policy would.", in_launch=False)
    view_hz: float = parameter(
        0.0,
        f"Publish {topics.SIM_VIEW}, too, a larger picture for people, this often (0: never).",
        low=0.0,
        high=100.0,
        unit="Hz",
        in_launch=False,
    )


class SimNode(Node):
    """Topics of the simulated robot; ``run`` steps it in real time and renders, in the thread that calls it.

    Callbacks only put what they got into a queue, which the loop empties before each step.
    """

    def __init__(self) -> None:
        super().__init__("sim_node")
        params = declare_and_read(self, SimParams)
        self._robot = load_robot(robot_file(params.robot))
        self.simulated = _simulated_robot(self._robot)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._cameras = {
            camera: self.create_publisher(CompressedImage if camera.compressed else Image, camera.topic, CAMERA)
            for camera in self._robot.cameras
        }
        self._view = make_publisher(self, topics.SIM_VIEW) if params.view_hz else None
        steps_hz = 1.0 / self.simulated.world.control_dt_s
        self._view_steps = max(1, round(steps_hz / params.view_hz)) if params.view_hz else 0
        self._joint_states = [
            (source, self.create_publisher(JointState, source.topic, JOINT_STATES))
            for source in self._robot.joint_sources
        ]
        self._task = make_publisher(self, topics.TASK)
        self._episode = make_publisher(self, topics.SIM_EPISODE)
        self._blocks = make_publisher(self, topics.SIM_BLOCKS)
        for output in self._robot.outputs:
            kind, topic = interface_class(output.set_points.msgtype), output.set_point_topic
            self.create_subscription(kind, topic, partial(self._on_command, output), COMMAND)
        period_s = EXPERT_STEPS * self.simulated.world.control_dt_s
        self._expert_commands = CommandOutputs(self, self._robot, period_s) if params.expert else None
        subscribe(self, topics.SIM_RESET, self._on_reset)
        self._reset(ResetRequest(params.seed))

    def run(self, stop: threading.Event) -> None:
        """Step, render and publish on absolute deadlines until ``stop`` is set."""
        period_ns = round(self.simulated.world.control_dt_s * NS_PER_S)
        step, deadline_ns = 0, time.monotonic_ns()
        while not stop.is_set():
            while not self._inbox.empty():
                self._inbox.get()()
            self._tick(step)
            step, deadline_ns = step + 1, deadline_ns + period_ns
            late_ns = time.monotonic_ns() - deadline_ns
            if late_ns < 0:
                time.sleep(-late_ns / NS_PER_S)
            elif late_ns > MAX_LATE_NS:
                deadline_ns += late_ns
                behind = f"{late_ns * MS_PER_NS:.0f} ms behind real time: simulated time stood still"
                self.get_logger().warning(behind, throttle_duration_sec=5.0)

    def _tick(self, step: int) -> None:
        now_ns = self.get_clock().now().nanoseconds
        world = self.simulated.world
        if step % JOINT_STATE_STEPS == 0:
            for source, publisher in self._joint_states:
                msg, own = JointState(), self._robot.columns(source.joints)
                positions, velocities = world.joint_positions[own], world.joint_velocities[own]
                fill_joint_state(msg, source.message_names, positions, velocities, now_ns)
                publisher.publish(msg)
        if step % CAMERA_STEPS == 0:
            self._publish_images(now_ns)
        if self._expert_commands is not None and step % EXPERT_STEPS == 0:
            self._expert_commands.send(self.simulated.expert.trajectory(EXPERT_STEPS * world.control_dt_s))
        is_news = self.simulated.step()
        if self._view is not None and (is_news or (self.simulated.num_steps - 1) % self._view_steps == 0):
            self._publish_view(now_ns)
        if is_news:
            self._publish_episode()

    def _publish_images(self, stamp_ns: int) -> None:
        for camera, publisher in self._cameras.items():
            pixels = self.simulated.world.render(camera.name)
            msg = CompressedImage() if camera.compressed else Image()
            encode = encode_compressed_image if camera.compressed else encode_image
            encode(pixels, msg, stamp_ns, camera.name)
            publisher.publish(msg)

    def _publish_view(self, stamp_ns: int) -> None:
        msg = Image()
        encode_image(self.simulated.view(), msg, stamp_ns, f"episode {self.simulated.num_resets}")
        self._view.publish(msg)

    def _on_command(self, output: OutputConfig, msg: Any) -> None:
        self._inbox.put(partial(self._accept, output, msg, self.get_clock().now().nanoseconds))

    def _accept(self, output: OutputConfig, msg: Any, received_ns: int) -> None:
        try:
            trajectory = output.decode(msg, 1.0 / self._robot.control_rate_hz)
            age_s = (received_ns - trajectory.stamp_ns) / NS_PER_S if trajectory.stamp_ns else None
            self.simulated.accept(output, trajectory, age_s)
        except ValueError as error:
            refused = f"{output.set_point_topic}: command refused: {one_line(error)}"
            self.get_logger().error(refused, throttle_duration_sec=1.0)

    def _on_reset(self, msg: String) -> None:
        try:
            request = parse_reset(msg.data)
        except ValueError as error:
            self.get_logger().error(one_line(error))
            return
        self._inbox.put(partial(self._reset, request))

    def _reset(self, request: ResetRequest) -> None:
        try:
            self.simulated.reset(request)
        except ValueError as error:
            self.get_logger().error(f"sim/reset: {one_line(error)}")
            return
        self._blocks.publish(String(data=self.simulated.scene.blocks_json))
        self._task.publish(String(data=self.simulated.instruction))
        self._publish_episode()

    def _publish_episode(self) -> None:
        text = json.dumps(asdict(self.simulated.status))
        self._episode.publish(String(data=text))
        self.get_logger().info(f"episode {text}")


def _simulated_robot(robot: RobotConfig) -> SimulatedRobot:
    """The simulation, after its first picture. Raises ValueError, saying what to install, where it cannot render."""
    try:
        import mujoco.renderer  # noqa: F401
        import OpenGL  # noqa: F401

        from vla_ros.sim.robot import SimulatedRobot

        simulated = SimulatedRobot(robot)
        simulated.world.render(robot.camera_names[0])
    except ModuleNotFoundError as error:
        raise ValueError(f"the simulation needs {error.name}; install it with: pip install 'vla_ros[sim]'") from error
    except ValueError:  # a robot file for another arm
        raise
    except Exception as error:  # which one tells which library is missing: import, attribute and OpenGL errors
        got = f"no headless OpenGL (EGL) on this machine ({one_line(error, 120)})"
        raise ValueError(f"{got}; on Debian or Ubuntu: apt install {EGL_PACKAGES}") from error
    return simulated


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted; exits 2 with one line where it cannot start."""
    stop = stop_on_signals()
    os.environ.setdefault("MUJOCO_GL", "egl")
    # Software rendering would otherwise take every core, which inference and the control loop need more.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    try:
        with ros_running(args):
            node = SimNode()
            with spinning(node), closing(node.simulated.world):
                node.run(stop)
    except ValueError as error:
        print(f"sim_node: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
