"""The demo's own ROS node: manages the others, starts episodes, records what arrives while the policy drives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String, UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.demo.stats import Recording
from vla_ros.messages.images import decode_image
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import make_client, make_publisher, subscribe
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import EVERYTHING, EVERYTHING_LATCHED, JOINT_STATES
from vla_ros.sim.scene import EpisodeStatus
from vla_ros.topics import Qos, Topic
from vla_ros.types import Mode
from vla_ros.units import MS_PER_NS, NS_PER_S
from vla_ros.wire import decode_result

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
ANSWER_PATIENCE_S = 2.0


class DemoClient(Node):
    """Waits belong to the main thread; the callbacks run in the thread that spins this node.

    ``check`` is called while waiting: it raises where going on waiting is pointless. ``commanded`` is the newest
    command, ``status`` the episode's, ``mode`` the policy node's; ``num_chunks`` counts the chunks.
    """

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__("vla_demo")
        self.robot = robot
        self._check = check
        self._changed = threading.Condition()
        self._recording: Recording | None = None
        self._observation_ns: int | None = None
        self.commanded: Trajectory | None = None
        self.status: EpisodeStatus | None = None
        self.mode = ""
        self.num_chunks = 0
        self._reset = make_publisher(self, topics.SIM_RESET)
        for topic, callback, profile in (
            (topics.SIM_EPISODE, self._on_episode, None),
            (topics.SIM_VIEW, self._on_view, None),
            (topics.RESULT, self._on_result, None),
            (topics.MODE, self._on_mode, EVERYTHING_LATCHED),
            (topics.CHUNK, self._on_chunk, EVERYTHING),
            (Topic(robot.joint_sources[0].topic, topics.JOINT_STATE, Qos.SENSOR), self._on_joint_state, JOINT_STATES),
        ):
            subscribe(self, topic, self._locked(callback), profile)
        CommandInputs(self, robot, self._locked(self._on_command), EVERYTHING)
        self._triggers = {service.name: make_client(self, service) for service in (topics.ENGAGE, topics.HOLD)}
        nodes = (topics.POLICY_NODE, topics.MODEL_NODE)
        self._lifecycle = {name: self.create_client(ChangeState, f"{name}/change_state") for name in nodes}
        self._states = {name: self.create_client(GetState, f"{name}/get_state") for name in nodes}

    @property
    def has_stopped(self) -> bool:
        """Whether the newest command keeps every joint still."""
        velocities = self.commanded.velocities if self.commanded is not None else None
        return velocities is not None and not velocities[0].any()

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether ``is_so`` became true in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not is_so():
                if time.monotonic() > deadline:
                    return False
                self._changed.wait(0.05)
                self._check()
        return True

    def change_state(self, node: str, transition: int, timeout_s: float) -> bool:
        """Ask a managed node for a transition; whether it made it. Raises ValueError where it doesn't answer."""
        request = ChangeState.Request(transition=Transition(id=transition))
        after = State.PRIMARY_STATE_ACTIVE if transition == ACTIVATE else State.PRIMARY_STATE_INACTIVE
        # Asked again only where the state says that nothing came of it: the node answers nothing in a transition.
        answer = self._call(self._lifecycle[node], request, timeout_s, lambda: self._is_in(node, after))
        return answer is None or answer.success or bool(self._is_in(node, after))

    def trigger(self, service: str, timeout_s: float = 5.0) -> Trigger.Response:
        """Call a Trigger service. Raises ValueError where nobody answers."""
        return self._call(self._triggers[service], Trigger.Request(), timeout_s)

    def start_episode(self, seed: int, target: str | None, timeout_s: float = 5.0) -> Recording:
        """Reset the simulation and record from there. Raises ValueError where it doesn't do as told."""
        before = self.status.episode if self.status else 0
        recording = Recording(before + 1, time.time_ns())
        with self._changed:
            self._recording = recording
        self._reset.publish(String(data=json.dumps({"seed": seed, "instruction": None, "target": target})))
        if not self.wait_until(lambda: self.status is not None and self.status.episode > before, timeout_s):
            raise ValueError(f"sim_node did not start episode {seed} within {timeout_s:g} s; see its log")
        return recording

    def end_recording(self) -> None:
        """Keep nothing that arrives from now on."""
        with self._changed:
            self._recording = None

    def _call(
        self, client: Client, request: Any, timeout_s: float, is_done: Callable[[], bool | None] | None = None
    ) -> Any:
        """The answer. It or the question is lost where the node hasn't discovered this client yet: then ask again,
        unless ``is_done`` says True, for which None is returned, or does not know."""
        if not self.wait_until(client.service_is_ready, timeout_s):
            raise ValueError(f"nobody offers the service {client.srv_name} after {timeout_s:g} s; see the nodes' logs")
        deadline = time.monotonic() + timeout_s
        future = client.call_async(request)
        while not self.wait_until(future.done, ANSWER_PATIENCE_S):
            done = is_done() if is_done is not None else False
            if done:
                return None
            if time.monotonic() > deadline:
                got = f"the service {client.srv_name} gave no answer in {timeout_s:g} s"
                raise ValueError(f"{got}; see the nodes' logs")
            if done is False and not future.done():  # its answer may have come meanwhile
                future = client.call_async(request)
        return future.result()

    def _is_in(self, node: str, state: int) -> bool | None:
        """Whether a managed node is in this state; None where it doesn't answer, as in a transition."""
        future = self._states[node].call_async(GetState.Request())
        if not self.wait_until(future.done, ANSWER_PATIENCE_S):
            return None
        return future.result().current_state.id == state

    def _locked(self, callback: Callable[[Any, dict[str, Any]], None]) -> Callable[[Any, dict[str, Any]], None]:
        """``callback`` with the lock held; whoever waits looks again after it."""

        def locked(heard: Any, info: dict[str, Any]) -> None:
            with self._changed:
                callback(heard, info)
                self._changed.notify_all()

        return locked

    def _on_episode(self, msg: String, info: dict[str, Any]) -> None:
        self.status = EpisodeStatus(**json.loads(msg.data))

    def _on_mode(self, msg: String, info: dict[str, Any]) -> None:
        self.mode = msg.data
        self._observation_ns = None

    def _on_view(self, msg: Image, info: dict[str, Any]) -> None:
        if self._recording is not None and msg.header.frame_id == f"episode {self._recording.episode}":
            self._recording.views.append(decode_image(msg))

    def _on_chunk(self, msg: JointTrajectory, info: dict[str, Any]) -> None:
        self._observation_ns = time_to_ns(msg.header.stamp)
        self.num_chunks += 1
        if driven := self._driven:
            driven.chunk_ns.append(info["received_timestamp"])

    @property
    def _driven(self) -> Recording | None:
        """What is recorded while the policy drives."""
        return self._recording if self.mode == Mode.POLICY else None

    def _on_result(self, msg: UInt8MultiArray, info: dict[str, Any]) -> None:
        if driven := self._driven:
            driven.inference_ms.append(decode_result(bytes(msg.data)).inference_ms)

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        self.commanded = trajectory
        if driven := self._driven:
            # The middleware's own time of arrival: this process may be late in looking.
            now_ns = info["received_timestamp"]
            driven.command_ns.append(now_ns)
            driven.commands.append((now_ns + round(trajectory.times_s[0] * NS_PER_S), trajectory.positions[0]))
            if self._observation_ns is not None:
                driven.observation_age_ms.append((now_ns - self._observation_ns) * MS_PER_NS)

    def _on_joint_state(self, msg: JointState, info: dict[str, Any]) -> None:
        if driven := self._driven:
            positions, _ = positions_by_name(msg, self.robot.joint_names)
            driven.states.append((time_to_ns(msg.header.stamp), positions))
