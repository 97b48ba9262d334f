"""The Fast DDS profile: chosen for the installed version, accepted by it, and large images arrive."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vla_ros.ros import dds

NUM_IMAGES = 60
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


@pytest.fixture
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what the tested function sets is taken back too.
    for name in (dds.KILTED, dds.JAZZY):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize("rclpy_version, name", [("7.1.6", dds.JAZZY), ("9.1.2", dds.KILTED)])
def test_the_profile_is_set_under_the_name_that_this_fast_dds_reads(
    no_profile: None, monkeypatch: pytest.MonkeyPatch, rclpy_version: str, name: str
) -> None:
    monkeypatch.setattr(dds, "version", lambda package: rclpy_version)
    dds.use_default_dds_profile()
    assert os.environ[name].endswith("config/fastdds.xml")
    assert [os.environ[other] for other in (dds.KILTED, dds.JAZZY) if other != name] == [""]


@pytest.mark.parametrize("name", [dds.KILTED, dds.JAZZY])
def test_a_profile_of_the_users_own_stays(no_profile: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/my/profile.xml")
    dds.use_default_dds_profile()
    assert {os.environ[dds.KILTED], os.environ[dds.JAZZY]} == {"/my/profile.xml", ""}


def test_no_large_image_vanishes_and_fast_dds_accepts_the_profile() -> None:
    env = {key: value for key, value in os.environ.items() if key not in (dds.KILTED, dds.JAZZY)}
    run = subprocess.run([sys.executable, "-c", SEND_IMAGES], capture_output=True, text=True, timeout=120, env=env)
    assert run.returncode == 0, run.stderr
    assert "XML" not in run.stderr + run.stdout
    assert int(run.stdout.split()[-1]) == NUM_IMAGES
