"""How fast a bag becomes observations, on one core, and how much memory that takes.

Bags of three 640x480 cameras at 30 Hz, 200 joint states a second and a task, page-cached: raw images as MCAP and as
sqlite3, JPEGs as MCAP and as sqlite3. Every set of frames becomes one observation with its pixels, by the code of a
replay. One further MCAP bag of 20 GB, sparse on the disk, is read for its memory alone. Exits 1 below ``--min-raw`` or
``--min-jpeg`` times real time, or above ``--max-rss-mb``.

    python bench/reading.py [--seconds 10] [--big-gb 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_ros.bags.read import BagReader
from vla_ros.bags.types import TYPES, message_type
from vla_ros.recordings.events import FrameEvent, JointsEvent, TaskEvent
from vla_ros.recordings.feed import Feed
from vla_ros.robot import CameraConfig, JointConfig, OutputConfig, RobotConfig
from vla_ros.runtime.buffers import SensorBuffers
from vla_ros.runtime.observe import observe
from vla_ros.types import Observation

WIDTH, HEIGHT, NUM_CAMERAS, CAMERA_RATE_HZ, JOINT_RATE_HZ = 640, 480, 3, 30, 200
NUM_PICTURES = 8
NUM_JOINTS = 6
START_NS = 1_700_000_000_000_000_000
NS_PER_S = 1_000_000_000
JPEG_QUALITY = 90
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/String"


@dataclass(frozen=True)
class Reading:
    """One bag read once: how long it lasts, how long reading took by the clock and of the processor, the observations in
    it, and the peak of memory."""

    recorded_s: float
    read_s: float
    cpu_s: float
    num_observations: int
    peak_rss_mb: float

    @property
    def times_real_time(self) -> float:
        return self.recorded_s / self.read_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each bag (default 10)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="best of how many (default 3)")
    parser.add_argument("--big-gb", type=float, default=20.0, metavar="GB", help="size of the big bag (default 20)")
    parser.add_argument("--min-raw", type=float, default=10.0, metavar="X", help="raw: exit 1 below it (default 10)")
    parser.add_argument("--min-jpeg", type=float, default=5.0, metavar="X", help="JPEG: exit 1 below it (default 5)")
    parser.add_argument("--max-rss-mb", type=float, default=1000.0, metavar="MB", help="exit 1 above it (default 1000)")
    parser.add_argument("--folder", metavar="DIR", help="where the bags are made for a while (default: TMPDIR)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    is_good = True
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        for is_jpeg in (False, True):
            name = f"{storage.name.lower()} {'JPEG' if is_jpeg else 'raw'}"
            least = args.min_jpeg if is_jpeg else args.min_raw
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                bag = Path(folder) / "bag"
                write_bag(bag, storage, is_jpeg, args.seconds)
                read = min((read_apart(bag, is_jpeg) for _ in range(args.repeats)), key=lambda reading: reading.read_s)
            is_good &= read.times_real_time >= least and read.peak_rss_mb <= args.max_rss_mb
            figures[name] = {**asdict(read), "times_real_time": read.times_real_time, "at_least": least}
            print(f"{name:<13} {read.times_real_time:6.1f} x real time (at least {least:g}), {_rest(read)}", flush=True)
    if args.big_gb:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / "big.mcap"
            write_sparse_bag(path, round(args.big_gb * 1e9))
            size_gb = path.stat().st_size / 1e9
            read = read_apart(path, is_jpeg=False)
        is_good &= read.peak_rss_mb <= args.max_rss_mb
        figures["big"] = {**asdict(read), "size_gb": size_gb, "at_most_mb": args.max_rss_mb}
        print(f"{size_gb:.1f} GB of MCAP read in {read.read_s:.1f} s, {_rest(read)} (at most {args.max_rss_mb:g})")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if is_good else 1


def _rest(read: Reading) -> str:
    by_cpu = read.recorded_s / read.cpu_s
    return f"{by_cpu:.1f} x by processor time, {read.num_observations} observations, peak RSS {read.peak_rss_mb:.0f} MB"


def read_apart(bag: Path, is_jpeg: bool) -> Reading:
    """Read ``bag`` in a fresh process on one core: the peak of memory is a process's, for all its life."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(read_bag, (bag, is_jpeg))


def read_bag(bag: Path, is_jpeg: bool) -> Reading:
    """Every observation of a bag, as a replay makes them: one for each complete set of frames."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    robot = make_robot(is_jpeg)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    feed = Feed(BagReader(bag), robot)
    stamps_ns, num_pixels = [], 0
    for observation in observations(feed, robot):
        num_pixels += sum(image.size for image in observation.images.values())
        stamps_ns.append(observation.stamp_ns)
    read_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    problems = [line for line in feed.problems if "is not in the bag" not in line and "no index" not in line]
    assert not problems, problems
    assert num_pixels == len(stamps_ns) * NUM_CAMERAS * HEIGHT * WIDTH * 3
    recorded_s = (stamps_ns[-1] - stamps_ns[0]) / NS_PER_S + 1 / CAMERA_RATE_HZ
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Reading(recorded_s, read_s, cpu_s, len(stamps_ns), peak_mb)


def observations(feed: Feed, robot: RobotConfig) -> Iterator[Observation]:
    sensors = SensorBuffers(robot)
    seen = set()
    for event in feed:
        if isinstance(event, FrameEvent):
            sensors.cameras[event.frame.camera].add(event.frame)
            seen.add(event.frame.camera)
            if len(seen) == NUM_CAMERAS:
                seen.clear()
                observation = observe(robot, sensors, event.received_ns)
                if isinstance(observation, Observation):
                    yield observation
        elif isinstance(event, JointsEvent):
            sensors.joints.add(event.sample)
        elif isinstance(event, TaskEvent):
            sensors.task = event.task


def make_robot(is_jpeg: bool) -> RobotConfig:
    names = tuple(f"joint_{i}" for i in range(NUM_JOINTS))
    return RobotConfig(
        name="reading",
        control_rate_hz=50.0,
        joints=tuple(JointConfig(name, -3.0, 3.0, 1.0, 5.0) for name in names),
        cameras=tuple(
            CameraConfig(f"camera_{i}", f"camera_{i}/image", WIDTH, HEIGHT, 0.5, is_jpeg) for i in range(NUM_CAMERAS)
        ),
        outputs=(OutputConfig("arm", names),),
    )


def make_pictures() -> list[np.ndarray]:
    """Pictures with edges, gradients and the noise of a sensor: JPEGs of them are as large as a real camera's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pictures = []
    for i in range(NUM_PICTURES):
        smooth = np.stack([x * 0.3 + 20, y * 0.4, (x + y) * 0.2], -1) + 40 * np.sin((x + 10 * i) / 9)[..., None]
        pictures.append(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))
    return pictures


def image_message(picture: np.ndarray, is_jpeg: bool, stamp_ns: int) -> bytes:
    make = message_type
    stamp = make("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    header = make("std_msgs/msg/Header")(stamp, "camera")
    if is_jpeg:
        _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return bytes(TYPES.serialize_cdr(make(COMPRESSED)(header, "jpeg", data), COMPRESSED))
    message = make(IMAGE)(header, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, picture.reshape(-1))
    return bytes(TYPES.serialize_cdr(message, IMAGE))


def joint_message(stamp_ns: int) -> bytes:
    stamp = message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    header = message_type("std_msgs/msg/Header")(stamp, "")
    names = [f"joint_{i}" for i in range(NUM_JOINTS)]
    values = np.zeros(NUM_JOINTS)
    return bytes(TYPES.serialize_cdr(message_type(JOINT_STATE)(header, names, values, values, values), JOINT_STATE))


def write_bag(path: Path, storage: StoragePlugin, is_jpeg: bool, seconds: float) -> None:
    pictures = make_pictures()
    camera_type = COMPRESSED if is_jpeg else IMAGE
    with Writer(path, version=9, storage_plugin=storage) as writer:
        task = writer.add_connection("/vla_policy/task", STRING, typestore=TYPES)
        joints = writer.add_connection("/joint_states", JOINT_STATE, typestore=TYPES)
        cameras = [
            writer.add_connection(f"/camera_{i}/image", camera_type, typestore=TYPES) for i in range(NUM_CAMERAS)
        ]
        writer.write(task, START_NS, TYPES.serialize_cdr(message_type(STRING)("touch the red block"), STRING))
        joint_ns, period_ns = START_NS, NS_PER_S // JOINT_RATE_HZ
        for frame in range(round(seconds * CAMERA_RATE_HZ)):
            stamp_ns = START_NS + (frame + 1) * NS_PER_S // CAMERA_RATE_HZ
            while joint_ns < stamp_ns:
                writer.write(joints, joint_ns, joint_message(joint_ns))
                joint_ns += period_ns
            for i, camera in enumerate(cameras):
                data = image_message(pictures[(frame + i) % NUM_PICTURES], is_jpeg, stamp_ns)
                writer.write(camera, stamp_ns, data)


def write_sparse_bag(path: Path, num_bytes: int) -> None:
    """An MCAP file without chunks whose pixels, all black, are holes in the file: little of it lies on the disk."""
    types = (STRING, JOINT_STATE, IMAGE)
    definitions = {msgtype: TYPES.generate_msgdef(msgtype, ros_version=2)[0] for msgtype in types}
    topics = {"/vla_policy/task": STRING, "/joint_states": JOINT_STATE}
    topics |= {f"/camera_{i}/image": IMAGE for i in range(NUM_CAMERAS)}
    head = image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), False, 0)[: -HEIGHT * WIDTH * 3]
    with path.open("wb") as file:
        file.write(b"\x89MCAP0\r\n" + _record(1, _text("ros2") + _text("bench")))
        for number, (msgtype, definition) in enumerate(definitions.items(), 1):
            file.write(_record(3, struct.pack("<H", number) + _text(msgtype) + _text("ros2msg") + _text(definition)))
        for number, (topic, msgtype) in enumerate(topics.items(), 1):
            schema = types.index(msgtype) + 1
            no_metadata = bytes(4)
            file.write(_record(4, struct.pack("<HH", number, schema) + _text(topic) + _text("cdr") + no_metadata))
        task = TYPES.serialize_cdr(message_type(STRING)("touch the red block"), STRING)
        file.write(_message(1, START_NS, bytes(task)))
        stamp_ns = START_NS
        while file.tell() < num_bytes:
            file.write(_message(2, stamp_ns, joint_message(stamp_ns)))
            for camera in range(NUM_CAMERAS):
                # The stamp stands behind the four bytes of the encapsulation.
                stamped = head[:4] + struct.pack("<iI", *divmod(stamp_ns, NS_PER_S)) + head[12:]
                file.write(_message(3 + camera, stamp_ns, stamped, num_zeros=HEIGHT * WIDTH * 3))
                file.seek(HEIGHT * WIDTH * 3, 1)
            stamp_ns += NS_PER_S // CAMERA_RATE_HZ
        file.write(_record(15, bytes(4)) + _record(2, bytes(20)) + b"\x89MCAP0\r\n")


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _record(op: int, content: bytes) -> bytes:
    return struct.pack("<BQ", op, len(content)) + content


def _message(channel: int, stamp_ns: int, data: bytes, num_zeros: int = 0) -> bytes:
    content = struct.pack("<HIQQ", channel, 0, stamp_ns, stamp_ns) + data
    return struct.pack("<BQ", 5, len(content) + num_zeros) + content


if __name__ == "__main__":
    sys.exit(main())
