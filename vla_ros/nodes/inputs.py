"""What comes in beside the model's answers: cameras and joint states into the buffers, and what a human says. Callbacks
check, convert, hand on and return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool

from vla_ros import topics
from vla_ros.hands import Hand, hands_of
from vla_ros.messages.bounds import MAX_NAMES
from vla_ros.messages.images import decode_frame, find_cv_bridge
from vla_ros.messages.joints import joint_sample
from vla_ros.messages.times import MAX_START_LEAD_S, time_to_ns
from vla_ros.nodes.control import Control
from vla_ros.nodes.params import PolicyNodeParams
from vla_ros.observing.buffers import SensorBuffers
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig
from vla_ros.ros.clock import StampMap, steady_now_ns
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.ros.qos import ANYBODY, JOINT_STATES
from vla_ros.ros.rivals import Rivals
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.strict import listed
from vla_ros.topics import Qos, Topic
from vla_ros.types import Frame
from vla_ros.units import NS_PER_S

NO_BUTTON = -1
UNNUMBERED: Mapping[str, Any] = {}
# Joint states of some of our joints, of wheels or of another arm are normal; nothing of a joint for this long isn't.
UNNAMED_S = 3.0


class _Inputs:
    """Subscriptions of some roles, each in a thread of its own."""

    def __init__(self, robot: RobotConfig, stamps: StampMap, problems: Problems, *roles: Role) -> None:
        self._robot = robot
        self._stamps = stamps
        self._problems = problems
        self._roles = roles

    def start(self) -> None:
        for role in self._roles:
            role.start()

    def stop(self) -> None:
        """Returns when no callback runs any more."""
        for role in self._roles:
            role.stop()


class _Named:
    """Which joints messages on one topic name: ours, of which each is to be named by some, and what else comes."""

    def __init__(self, joint_names: Iterable[str]) -> None:
        self._named_ns = dict.fromkeys(joint_names, 0)
        self._heard_ns = 0
        self._came: dict[str, None] = {}

    def hear(self, names: Sequence[str], own: Iterable[str], now_ns: int) -> str:
        """A message with these ``names``, of which ``own`` are ours, came. Returns which joint hasn't been named for
        ``UNNAMED_S``, in one line; empty where all have."""
        is_silence_over = now_ns - self._heard_ns > UNNAMED_S * NS_PER_S
        self._named_ns.update(dict.fromkeys(self._named_ns if is_silence_over else own, now_ns))
        self._heard_ns = now_ns
        if len(self._came) < MAX_NAMES:
            self._came.update(dict.fromkeys(names[:MAX_NAMES]))
        oldest = min(self._named_ns, key=self._named_ns.__getitem__)
        if now_ns - self._named_ns[oldest] < UNNAMED_S * NS_PER_S:
            return ""
        got = f"lacks joint '{oldest}'; messages hold {listed(tuple(self._came), 'no joints')}"
        return f"{got}: check the joint names in the robot file"


class SensorInputs(_Inputs):
    """Cameras and joint states. What arrives goes into ``sensors`` while that is set, else it is dropped; ``rivals``
    gets to know who publishes which joints."""

    def __init__(
        self,
        owner: Node,
        robot: RobotConfig,
        stamps: StampMap,
        problems: Problems,
        on_frame: Callable[[], None],
        rivals: Rivals | None = None,
    ) -> None:
        super().__init__(robot, stamps, problems, Role(owner, "cameras"), Role(owner, "joints"))
        self.sensors: SensorBuffers | None = None
        self._rivals = rivals or Rivals(owner, problems)
        self._on_frame = on_frame
        self._named = {topic: _Named(columns) for topic, columns in robot.joint_columns.items()}
        find_cv_bridge()  # loaded before the first picture waits for it
        cameras, joints = self._roles
        for camera in robot.cameras:
            kind = topics.COMPRESSED_IMAGE if camera.compressed else topics.IMAGE
            cameras.subscribe(Topic(camera.topic, kind, Qos.SENSOR), partial(self._on_image, camera))
        for topic in robot.joint_topics:
            heard = partial(self._on_joint_state, topic)
            states = Topic(topic, topics.JOINT_STATE, Qos.SENSOR)
            joints.subscribe(states, heard, JOINT_STATES, partial(self._refuse_joints, topic))

    def _on_image(self, camera: CameraConfig, msg: Any) -> None:
        sensors = self.sensors
        if sensors is None:
            return
        source = f"camera '{camera.name}'"
        try:
            header_ns = time_to_ns(msg.header.stamp)
            stamp_ns = self._stamps.to_steady_ns(header_ns)
            image = decode_frame(msg, camera.width, camera.height)
        except ValueError as error:
            return self._problems.report(source, f"{source} on '{camera.topic}': {error}")
        sensors.cameras[camera.name].add(Frame(camera.name, stamp_ns, header_ns, image))
        self._on_frame()

    def _refuse_joints(self, topic: str, why: object) -> None:
        self._problems.report(f"joint state on '{topic}'", f"joint state on '{topic}': {why}")

    def _on_joint_state(self, topic: str, msg: Any, info: Mapping[str, Any] = UNNUMBERED) -> None:
        sensors, columns = self.sensors, self._robot.joint_columns[topic]
        own = [name for name in msg.name if name in columns]
        self._rivals.hear(topic, info.get("publication_sequence_number"), own)
        missing = self._named[topic].hear(msg.name, columns if sensors is None else own, steady_now_ns())
        if missing:
            self._refuse_joints(topic, missing)
        if sensors is None or not own:
            return
        try:
            stamp_ns = self._stamps.to_steady_ns(time_to_ns(msg.header.stamp))
            sample = joint_sample(msg, columns, self._robot.num_joints, stamp_ns)
        except ValueError as error:
            return self._refuse_joints(topic, error)
        if sample is not None:
            sensors.joints.add(sample)


class HumanInputs(_Inputs):
    """Teleop trajectories and a takeover button in one thread, the emergency stop in another and as another DDS
    participant: nothing makes a hand on the stick wait, and not even a flood of its messages a stop.

    ``control`` gets checked trajectories and what the emergency stop says; the button ``takeover_button`` of ``joy``
    takes over when it goes down; a stop silent for ``estop_timeout_s`` is pressed.
    """

    def __init__(
        self,
        owner: Node,
        robot: RobotConfig,
        stamps: StampMap,
        problems: Problems,
        control: Control,
        params: PolicyNodeParams,
    ) -> None:
        super().__init__(robot, stamps, problems, Role(owner, "stop", is_apart=True), Role(owner, "human"))
        self._control = control
        self._stop_timeout_s = params.estop_timeout_s
        self._stop_heard_ns, self._is_stop_silent = steady_now_ns(), False
        self._was_down = True  # held when the node starts is not pressed
        stop, role = self._roles
        stop.hear(topics.ESTOP.private, self._on_stop, problems.refusing(topics.ESTOP))
        for hand in hands_of(robot):
            topic = hand.topic.private if hand.topic.name == topics.TELEOP.name else hand.topic
            # Of whoever publishes; but what a latched one said before is of no use.
            role.subscribe(topic, partial(self._on_hand, hand), ANYBODY, partial(self._refuse_hand, hand))
        if params.takeover_button != NO_BUTTON:
            press = partial(self._on_joy, params.takeover_button)
            role.subscribe(topics.JOY, press, None, problems.refusing(topics.JOY))

    def watch_stop(self) -> None:
        """With ``estop_timeout_s`` a stop that is not heard for longer is a pressed one: its publisher, the cable or
        the network may be what has ended."""
        silence_s = (steady_now_ns() - self._stop_heard_ns) / NS_PER_S
        if 0 < self._stop_timeout_s < silence_s:
            got = f"nothing came on '{topics.ESTOP}' for {silence_s:.2f} s"
            self._problems.report("estop", f"{got}; expected within {self._stop_timeout_s:g} s (estop_timeout_s)")
            if not self._is_stop_silent:
                self._is_stop_silent = True
                self._control.press_estop(True)

    def _on_stop(self, msg: Bool) -> None:
        self._stop_heard_ns, self._is_stop_silent = steady_now_ns(), False
        self._control.press_estop(msg.data)

    def _refuse_hand(self, hand: Hand, why: str) -> None:
        self._control.reject_teleop(why, hand.topic.name)
        self._problems.report("teleop", f"'{hand.topic}' refused: {why}")

    def _on_hand(self, hand: Hand, msg: Any, info: Mapping[str, Any]) -> None:
        try:
            trajectory = hand.parse(msg, self._robot.joint_names)
            if trajectory is None:
                return
            start_ns = steady_now_ns()
            if trajectory.stamp_ns:
                start_ns = self._stamps.to_steady_ns(trajectory.stamp_ns, MAX_START_LEAD_S)
            times_ns = tuple(start_ns + round(t * NS_PER_S) for t in trajectory.times_s)
            wanted = TeleopTrajectory(times_ns, trajectory.positions, hand.topic.name, hand.max_distance, hand.partners)
            refusal = self._control.offer_teleop(wanted)
        except ValueError as error:
            return self._refuse_hand(hand, str(error))
        if refusal:
            self._problems.report("teleop", f"'{hand.topic}' refused: {refusal}")

    def _on_joy(self, button: int, msg: Joy, _: Mapping[str, Any]) -> None:
        if button >= len(msg.buttons):
            return self._problems.report(
                topics.JOY.name,
                f"'{topics.JOY}' has {len(msg.buttons)} buttons; expected more than takeover_button {button}",
            )
        is_down = bool(msg.buttons[button])
        refusal = self._control.takeover() if is_down and not self._was_down else ""
        if refusal:
            self._problems.report(topics.JOY.name, f"takeover by '{topics.JOY}' refused: {refusal}")
        self._was_down = is_down
