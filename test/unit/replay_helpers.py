"""Small bags of a two-joint robot, and a policy without a model to replay them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from runtime_helpers import CHUNK_DT_S, HORIZON, MS, ROBOT, S

from vla_ros.bags.definitions import message_type, serialize
from vla_ros.bags.write import BagWriter
from vla_ros.messages.trace import Trace, encode_trace
from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.pi.request import PiRequest
from vla_ros.replay.offline import ReplayPolicy
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Observation

START_NS = 1_000 * S
JOINT_NS, FRAME_NS, COMMAND_NS = 10 * MS, 50 * MS, 20 * MS
STRING, TRAJECTORY = "std_msgs/msg/String", "trajectory_msgs/msg/JointTrajectory"
COMMAND_TOPIC = f"/{ROBOT.outputs[0].command_topic}"
# Its front camera sends JPEGs.
JPEG_ROBOT = replace(ROBOT, cameras=(replace(ROBOT.cameras[0], compressed=True), ROBOT.cameras[1]))


def commanded(t_ns: int) -> np.ndarray:
    """What the recorded robot was commanded at a time: a slow swing."""
    t_s = (t_ns - START_NS) / S
    return np.array([0.3 * np.sin(t_s), -0.2 * np.sin(t_s)])


@dataclass(frozen=True)
class Said:
    """A message of a bag: its topic, when it was recorded, and itself."""

    topic: str
    time_ns: int
    message: Any


def sensors(seconds: float, gap_s: tuple[float, float] = (0.0, 0.0)) -> Iterator[Said]:
    """Joints and both cameras; within ``gap_s`` the front camera is silent."""
    header = message_type("std_msgs/msg/Header")
    time = message_type("builtin_interfaces/msg/Time")
    image, state = message_type("sensor_msgs/msg/Image"), message_type("sensor_msgs/msg/JointState")
    for at_ns in range(0, round(seconds * S), JOINT_NS):
        stamp = header(time(*divmod(START_NS + at_ns, S)), "")
        positions = commanded(START_NS + at_ns) + 0.01
        names = ["shoulder", "elbow"]
        yield Said("/joint_states", START_NS + at_ns, state(stamp, names, positions, np.zeros(2), np.zeros(0)))
        for camera in ("front", "wrist") if at_ns % FRAME_NS == 0 else ():
            if camera == "front" and gap_s[0] * S <= at_ns < gap_s[1] * S:
                continue
            pixels = np.full(36, at_ns // FRAME_NS % 256, np.uint8)
            yield Said(f"/{camera}/image", START_NS + at_ns, image(stamp, 3, 4, "rgb8", 0, 12, pixels))


def commands(seconds: float, period_ns: int = COMMAND_NS, late_ns: Callable[[], int] = lambda: 0) -> Iterator[Said]:
    """Each is sent at its tick, or ``late_ns`` after it."""
    for at_ns in range(0, round(seconds * S), period_ns):
        sent_ns = START_NS + at_ns + late_ns()
        yield Said(COMMAND_TOPIC, sent_ns, trajectory(0, [period_ns], [commanded(sent_ns + period_ns)]))


def jpeg(said: Said, is_damaged: bool = False) -> Said:
    """An image message as a JPEG; a damaged one has a whole header, and tables that decode nothing."""
    image = said.message
    _, encoded = cv2.imencode(".jpg", image.data.reshape(image.height, image.width, 3))
    data = bytearray(encoded.tobytes())
    if is_damaged:
        table = data.find(b"\xff\xc4")
        data[table + 5 : table + 21] = b"\xff" * 16
    message = message_type("sensor_msgs/msg/CompressedImage")(image.header, "jpeg", np.frombuffer(data, np.uint8))
    return replace(said, message=message)


def trajectory(stamp_ns: int, times_ns: list[int], rows: list[np.ndarray]) -> Any:
    header, time = message_type("std_msgs/msg/Header"), message_type("builtin_interfaces/msg/Time")
    point, duration = (
        message_type("trajectory_msgs/msg/JointTrajectoryPoint"),
        message_type("builtin_interfaces/msg/Duration"),
    )
    none = np.zeros(0)
    points = [
        point(np.array(row), none, none, none, duration(*divmod(t, S))) for t, row in zip(times_ns, rows, strict=True)
    ]
    return message_type(TRAJECTORY)(header(time(*divmod(stamp_ns, S)), ""), ["shoulder", "elbow"], points)


def says(topic: str, at_s: float, text: str) -> Said:
    return Said(topic, START_NS + round(at_s * S), message_type(STRING)(text))


def task(at_s: float = 0.0, text: str = "touch the red block") -> Said:
    return says("/vla_policy/task", at_s, text)


def mode(at_s: float, text: str) -> Said:
    return says("/vla_policy/mode", at_s, text)


def chunk(header_s: float, at_s: float) -> Said:
    times_ns = [round((k + 1) * CHUNK_DT_S * S) for k in range(HORIZON)]
    stamp_ns = START_NS + round(header_s * S)
    message = trajectory(stamp_ns, times_ns, [commanded(stamp_ns + t) for t in times_ns])
    return Said("/vla_policy/chunk", START_NS + round(at_s * S), message)


def trace(
    front_s: float | None, wrist_s: float | None, joints: tuple[float, float], asked_s: float, taken_s: float
) -> Said:
    """None for a camera that the recorded policy did not look at."""
    taken_of = {"front": front_s, "wrist": wrist_s}
    cameras_ns = {name: START_NS + round(at_s * S) for name, at_s in taken_of.items() if at_s is not None}
    asked, taken = (START_NS + round(t * S) for t in (asked_s, taken_s))
    return says("/vla_policy/trace", taken_s, encode_trace(Trace(cameras_ns, joints, "touch", asked, taken)))


def write_bag(path: Path, *parts: Any) -> Path:
    """A bag of all messages of ``parts`` (messages or iterables of them) in the order of time."""
    said = [item for part in parts for item in ([part] if isinstance(part, Said) else part)]
    with BagWriter(path) as bag:
        for topic, msgtype in sorted({(item.topic, item.message.__msgtype__) for item in said}):
            bag.add_topic(topic, msgtype)
        for item in sorted(said, key=lambda item: item.time_ns):
            bag.write(item.topic, serialize(item.message), item.time_ns)
    return path


class SwingProcessor:
    """A patch for each pixel; ``decode`` takes absolute positions. ``asked`` is every observation."""

    chunk_shape = ChunkShape(HORIZON, CHUNK_DT_S, 1.0)
    joint_names, digest = ("shoulder", "elbow"), "d1ce57"

    def __init__(self, camera_names: tuple[str, ...] = ("front", "wrist")) -> None:
        self.camera_names = camera_names
        self.asked: list[Observation] = []

    def bind(self, limits: Mapping[str, Sequence[float]]) -> None:
        """Positions don't depend on them."""

    def process(self, observation: Observation, continuation: Continuation | None = None) -> PiRequest:
        self.asked.append(observation)
        pixels = np.concatenate([observation.images[name].reshape(-1, 3) for name in self.camera_names])
        tokens = np.ones(4, np.int64)
        sizes = tuple((1, *observation.images[name].shape[:2]) for name in self.camera_names)
        given = PolicyInput(pixels, tokens, tokens > 0, np.ones((4, 4), bool), tokens[None], None, sizes)
        state, noise = observation.joint_positions.astype(np.float32)[None], np.zeros((HORIZON, 2), np.float32)
        return PiRequest(observation.stamp_ns, given, state, noise)

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        return ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, actions)


def swing_policy(
    offset: float = 0.0,
    infer: Callable[[PiRequest], np.ndarray] | None = None,
    cameras: tuple[str, ...] = ("front", "wrist"),
) -> ReplayPolicy:
    """Wants what was commanded, and ``offset`` more."""

    def swing(request: PiRequest) -> np.ndarray:
        shape = SwingProcessor.chunk_shape
        return np.stack([commanded(shape.due_ns(request.stamp_ns, k)) + offset for k in range(shape.horizon)])

    return ReplayPolicy("swing", SwingProcessor(cameras), infer or swing)
