"""A bag played into live nodes under simulated time, recorded, and replayed without them: the same observations and
chunks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from ros_harness import SOURCE_ROOT, START_PATIENCE_S, NodeProcess, wait_until
from rosgraph_msgs.msg import Clock

from vla_ros.bags.read import BagReader
from vla_ros.messages.times import fill_time
from vla_ros.messages.trace import Trace
from vla_ros.recordings.events import Chunk
from vla_ros.recordings.feed import Feed
from vla_ros.replay.records import Replay
from vla_ros.replay.run import replay_bag
from vla_ros.replay.session import load_replay_policy
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import load_robot
from vla_ros.share import policy_dir, robot_file
from vla_ros.types import Frame

DEMO_BAG = Path(__file__).parents[1] / "data" / "tabletop_touch"
S = 1_000_000_000
PERIOD_NS = S // 50
MIN_CHUNKS = 2  # a busy machine makes few of the bag's 4.5 s
MIN_COMMANDS = 20
MAX_CHUNK_DIFFERENCE = 1e-5
MIN_SHARE = 0.8
MAX_TRIES = 4
RESULT_TIMEOUT_S = 3.0  # a busy machine takes a second for an answer


@contextmanager
def simulated_time(now_ns: int) -> Iterator[Callable[[], bool]]:
    """Says what time it is whenever it is called: the recorder begins with simulated time."""
    node = rclpy.create_node("time")
    publisher, msg = node.create_publisher(Clock, "/clock", 1), Clock()
    fill_time(msg.clock, now_ns)
    try:
        yield lambda: publisher.publish(msg) is None
    finally:
        node.destroy_node()


@pytest.fixture(scope="module")
def online(ros: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Replay]:
    """A bag of what the live nodes made of the demo's sensors, and its replay; once more where a busy machine made few
    chunks or let ticks come late, which have no twin in a replay, or held the recorder up so that it lost something."""
    for _ in range(MAX_TRIES):
        bag = record_online(tmp_path_factory.mktemp("online"))
        chunks, found = traced_chunks(bag), replayed(bag)
        if len(chunks) >= MIN_CHUNKS and not any(chunks.values()) and share_alike(distances(found)) >= MIN_SHARE:
            break
    return bag, found


def traced_chunks(bag: Path) -> dict[int, bool]:
    """Each chunk, by its stamp, and whether the recorder, which best effort reaches, missed an image of it."""
    said = [event.said for event in Feed(BagReader(bag), load_robot(robot_file("tabletop")))]
    images = {(frame.camera, frame.stamp_ns) for frame in said if isinstance(frame, Frame)}
    traced = [trace.cameras_ns for trace in said if isinstance(trace, Trace)]
    return {min(cameras_ns.values()): not cameras_ns.items() <= images for cameras_ns in traced}


def record_online(folder: Path) -> Path:
    """The bag plays when both nodes are active and everything is recorded."""
    common = {"use_sim_time": True, "autostart": True}
    policys = {**common, "is_followed": False, "result_timeout_s": RESULT_TIMEOUT_S}
    command = [sys.executable, "-m", "vla_ros.cli", "record", "--out", str(folder / "online"), "--use-sim-time"]
    env = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env["PYTHONPATH"] = str(SOURCE_ROOT)
    record_log = folder / "record.log"
    with record_log.open("wb") as log:
        recorder = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=SOURCE_ROOT)
    nodes = [
        NodeProcess("nodes.model_node", folder / "model_node.log", common),
        NodeProcess("nodes.policy_node", folder / "policy_node.log", policys),
    ]
    try:
        with simulated_time(BagReader(DEMO_BAG).contents.start_ns) as tell_time:
            wait_until(lambda: tell_time() and "recording" in record_log.read_text(), "the recorder", START_PATIENCE_S)
        for node in nodes:
            wait_until(lambda: ": active" in node.log, f"both nodes active; logs in {folder}", START_PATIENCE_S)
        player = NodeProcess("record.player", folder / "player.log", {"bag": DEMO_BAG})
        wait_until(lambda: not player.is_running, "the end of the bag", START_PATIENCE_S)
        assert player.stop() == 0, player.log
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(START_PATIENCE_S)
        for node in nodes:
            node.stop()
    return folder / "online"


def replayed(bag: Path) -> Replay:
    policy = load_replay_policy("tiny_touch", policy_dir("tiny_touch"), torch.device("cpu"))
    settings = ReplaySettings(latency_ms=None, result_timeout_s=RESULT_TIMEOUT_S)
    return replay_bag(bag, load_robot(robot_file("tabletop")), policy, settings)


def distances(found: Replay) -> np.ndarray:
    """How far the policy's commands are from the live nodes', at the moment within a period at which they are nearest:
    ``[num_commands, num_joints]``, a share of what the joint may move in a period."""
    is_policys = found.command_drivers == "POLICY"
    times_ns, ours = found.commands.times_ns[is_policys], found.commands.values[is_policys]
    shifts_ns = range(-PERIOD_NS, PERIOD_NS + 1, S // 1000)
    shifted = [found.recorded_commands.at(times_ns + shift_ns, 0.5) for shift_ns in shifts_ns]
    each = np.abs(np.stack(shifted) - ours)
    nearest = np.nanmin(each[:, np.isfinite(each).any(axis=(0, 2))], axis=0)
    return nearest / (load_robot(robot_file("tabletop")).joint_values("max_velocity") * PERIOD_NS / S)


def share_alike(nearest: np.ndarray) -> float:
    """Of the commands, those within half of what a joint may move in a period: where acceleration bounds a command, a
    tick a millisecond later goes another way. 0 where there are too few to tell."""
    return float((nearest < 0.5).all(axis=1).mean()) if len(nearest) > MIN_COMMANDS else 0.0


def test_a_replay_of_what_the_live_nodes_did_gives_the_same_chunks(online: tuple[Path, Replay]) -> None:
    """All of them, but for those of which the recorder missed an image."""
    online_bag, found = online
    said = [event.said for event in Feed(BagReader(online_bag), load_robot(robot_file("tabletop")))]
    recorded = {one.trajectory.stamp_ns: one.trajectory for one in said if isinstance(one, Chunk)}
    lost = [stamp_ns for stamp_ns, is_lost in traced_chunks(online_bag).items() if is_lost]
    told = [event.line for event in found.events if event.kind == "processor" and "lacks the image" in event.line]
    assert len(found.chunks) >= MIN_CHUNKS and len(told) == len(lost)
    assert {chunk.header_ns for chunk in found.chunks} == recorded.keys() - set(lost)
    for chunk in found.chunks:
        assert np.abs(chunk.positions - recorded[chunk.header_ns].positions).max() <= MAX_CHUNK_DIFFERENCE


def test_its_commands_are_those_of_the_live_nodes_but_for_one_period(online: tuple[Path, Replay]) -> None:
    nearest = distances(online[1])
    assert share_alike(nearest) >= MIN_SHARE
    assert (nearest < 2.0).all()  # what comes of a late tick is soon made up for
