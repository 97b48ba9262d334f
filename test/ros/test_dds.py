"""The Fast DDS profile: chosen for the installed version, accepted by it, and large images arrive."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ros_harness import SOURCE_ROOT

from vla_ros.ros import dds

NUM_IMAGES = 60
NUM_READERS, NUM_LARGE, LARGE_MB = 3, 5, 49
QUIET_S = 2.0  # after the last message
SEND_IMAGES = f"""
import time
from array import array
from vla_ros.ros.dds import use_default_dds_profile
use_default_dds_profile()
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
qos = QoSProfile(depth={NUM_IMAGES}, reliability=ReliabilityPolicy.BEST_EFFORT)
sender, receiver = rclpy.create_node("sender"), rclpy.create_node("receiver")
publisher = sender.create_publisher(Image, "image", qos)
stamps = []
receiver.create_subscription(Image, "image", lambda msg: stamps.append(msg.header.stamp.sec), qos)
executor = SingleThreadedExecutor()
executor.add_node(receiver)
while publisher.get_subscription_count() == 0:
    time.sleep(0.01)
msg = Image(height=480, width=640, encoding="rgb8", step=1920, data=array("B", bytes(480 * 1920)))
for i in range({NUM_IMAGES}):
    msg.header.stamp.sec = i
    publisher.publish(msg)
    deadline = time.monotonic() + 1 / 30
    while (left := deadline - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)
deadline = time.monotonic() + 10
while len(stamps) < {NUM_IMAGES} and time.monotonic() < deadline:
    executor.spin_once(timeout_sec=0.1)
print(len(stamps))
"""
TAKE_LARGE = f"""
import re
import time
from pathlib import Path
from vla_ros import topics
from vla_ros.ros.dds import use_default_dds_profile
from vla_ros.ros.endpoints import interface_class
from vla_ros.ros.qos import LATCHED
use_default_dds_profile()
import rclpy
rclpy.init()
node, sizes = rclpy.create_node("taker"), []
def resident_mb():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
for i in range({NUM_READERS}):
    kind = interface_class(topics.TASK.type)
    node.create_subscription(kind, topics.TASK.name, lambda data: sizes.append(len(data)), LATCHED, raw=True)
before_mb = resident_mb()
last_s = time.monotonic() + 60  # until it begins
while time.monotonic() < last_s + {QUIET_S}:
    num = len(sizes)
    rclpy.spin_once(node, timeout_sec=0.1)
    if len(sizes) > num:
        last_s = time.monotonic()
assert min(sizes) > 1_000_000 * {LARGE_MB}, sizes
print(resident_mb() - before_mb)
"""


@pytest.fixture
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what the tested function sets is taken back too.
    for name in (dds.KILTED, dds.JAZZY):
        monkeypatch.setenv(name, "")
    for name in (dds.READERS_FROM_PROFILE, dds.PUBLICATION_MODE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("rclpy_version, name", [("7.1.6", dds.JAZZY), ("9.1.2", dds.KILTED)])
def test_the_profile_is_set_under_the_name_that_this_fast_dds_reads(
    no_profile: None, monkeypatch: pytest.MonkeyPatch, rclpy_version: str, name: str
) -> None:
    monkeypatch.setattr(dds, "version", lambda package: rclpy_version)
    dds.use_default_dds_profile()
    assert os.environ[name].endswith("config/fastdds.xml")
    assert [os.environ[other] for other in (dds.KILTED, dds.JAZZY) if other != name] == [""]
    assert os.environ[dds.READERS_FROM_PROFILE] == "1"


def test_a_publication_mode_of_the_users_own_counts(no_profile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dds.PUBLICATION_MODE, "ASYNCHRONOUS")
    dds.use_default_dds_profile()
    assert dds.READERS_FROM_PROFILE not in os.environ


@pytest.mark.parametrize("name", [dds.KILTED, dds.JAZZY])
def test_a_profile_of_the_users_own_stays(no_profile: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/my/profile.xml")
    dds.use_default_dds_profile()
    assert {os.environ[dds.KILTED], os.environ[dds.JAZZY]} == {"/my/profile.xml", ""}
    assert dds.READERS_FROM_PROFILE not in os.environ


def test_no_large_image_vanishes_and_fast_dds_accepts_the_profile(no_profile: None) -> None:
    assert int(_printed(SEND_IMAGES)) == NUM_IMAGES


def test_the_room_of_large_messages_is_given_back(no_profile: None) -> None:
    sender = [sys.executable, "benchmarks/large_messages.py", "task", "--times", str(NUM_LARGE), "--pause-s", "0.3"]
    with subprocess.Popen(sender, cwd=SOURCE_ROOT) as sending:
        try:
            grown_mb = float(_printed(TAKE_LARGE))
        finally:
            sending.terminate()
    assert grown_mb < LARGE_MB, f"{grown_mb:.0f} MB for {NUM_READERS} readers"


def _printed(program: str) -> str:
    """The last word that a program prints with the default profile."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "XML" not in run.stderr + run.stdout
    return run.stdout.split()[-1]
