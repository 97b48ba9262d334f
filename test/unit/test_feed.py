"""A bag's messages as the events of one robot."""

import dataclasses
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bag_samples import (
    MCAP,
    NS_PER_S,
    NUMBERS,
    SQLITE,
    array,
    as_humble,
    at,
    image,
    joint_state,
    jpeg,
    string,
    trajectory,
    write_bag,
)

from vla_ros.bags.read import BagReader
from vla_ros.messages import images
from vla_ros.messages.compressed import is_whole_jpeg
from vla_ros.messages.images import decode_image, find_cv_bridge
from vla_ros.observing.buffers import FrameBuffer
from vla_ros.recordings.events import Chunk, Command, Task, Teleop
from vla_ros.recordings.feed import Feed, resolve_topic
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, JointStateConfig, OutputConfig, TeleopConfig
from vla_ros.types import Frame, JointSample, Mode

HEIGHT, WIDTH = 24, 32
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
JOINTS = ("a", "b", "c")
ROBOT = RobotConfig(
    name="three",
    control_rate_hz=50.0,
    joints=tuple(JointConfig(name, -3.0, 3.0, 1.0, 5.0) for name in JOINTS),
    cameras=(
        CameraConfig("raw", "raw/image", WIDTH, HEIGHT, 0.5),
        CameraConfig("packed", "packed/image/compressed", WIDTH, HEIGHT, 0.5, compressed=True),
    ),
    outputs=(OutputConfig("arm", ("b", "a")), OutputConfig("gripper", ("c",), "forward", "/gripper/commands")),
)
ARM_TOPIC = "/joint_trajectory_controller/joint_trajectory"


def messages(prefix=""):
    return [
        (f"{prefix}/vla_policy/task", string(" touch it "), at(0)),
        (f"{prefix}/joint_states", joint_state(at(0.1), ["c", "b", "a"], [3.0, 2.0, 1.0], [0.3, 0.2, 0.1]), at(0.11)),
        (f"{prefix}/raw/image", image(at(0.2), PIXELS), at(0.22)),
        (f"{prefix}/packed/image/compressed", jpeg(at(0.2), PIXELS), at(0.23)),
        (f"{prefix}/vla_policy/teleop", trajectory(0, JOINTS, [[1, 2, 3]]), at(0.3)),
        (f"{prefix}/vla_policy/mode", string("TELEOP"), at(0.31)),
        (f"{prefix}{ARM_TOPIC}", trajectory(0, ["a", "b"], [[0.1, 0.2], [0.3, 0.4]], 0.02), at(0.32)),
        ("/gripper/commands", array(NUMBERS, np.array([0.7])), at(0.33)),
        (f"{prefix}/vla_policy/chunk", trajectory(at(0.1), JOINTS, np.ones((4, 3))), at(0.36)),
        ("/somebody/else", string("nothing of ours"), at(0.4)),
    ]


def feed_of(bag, robot=ROBOT, namespace=""):
    feed = Feed(BagReader(bag), robot, namespace)
    return list(feed), feed.problems


def with_one_more(tmp_path, *more):
    """The events and problems of the usual bag and further messages."""
    return feed_of(write_bag(tmp_path / "bag", [*messages(), *more]))


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("is_humble", [False, True])
def test_every_topic_of_the_robot_becomes_an_event_in_recording_order(tmp_path, storage, is_humble):
    bag = write_bag(tmp_path / "bag", messages(), storage)
    events, problems = feed_of(as_humble(bag) if is_humble else bag)
    assert problems == ()
    assert [type(event.said) for event in events] == [
        Task, JointSample, Frame, Frame, Teleop, Mode, Command, Command, Chunk,
    ]  # fmt: skip
    received_ns = [event.received_ns for event in events]
    task, joints, raw, packed, teleop, mode, arm, gripper, chunk = (event.said for event in events)
    assert (received_ns[0], task.text) == (at(0), "touch it")
    assert mode is Mode.TELEOP
    assert (received_ns[1], joints.stamp_ns) == (at(0.11), at(0.1))
    assert joints.positions.tolist() == [1, 2, 3] and joints.velocities.tolist() == [0.1, 0.2, 0.3]
    assert raw.camera == "raw" and (received_ns[2], raw.stamp_ns) == (at(0.22), at(0.2))
    assert np.array_equal(raw.image, PIXELS)
    assert packed.camera == "packed" and np.array_equal(packed.image, decode_image(jpeg(0, PIXELS)))
    assert teleop.trajectory.positions.tolist() == [[1, 2, 3]] and teleop.trajectory.stamp_ns == 0
    assert arm.group == "arm" and arm.trajectory.positions.tolist() == [[0.2, 0.1], [0.4, 0.3]]
    assert arm.trajectory.times_s.tolist() == [0.02, 0.04]
    assert gripper.group == "gripper" and gripper.trajectory.positions.tolist() == [[0.7]]
    assert gripper.trajectory.times_s.tolist() == [0.02], "a forward command is meant for one control period ahead"
    assert chunk.trajectory.stamp_ns == at(0.1) and chunk.trajectory.positions.shape == (4, 3)


def test_an_encoding_for_cv_bridge_is_read_from_a_bag_as_it_is_live(tmp_path, monkeypatch):
    class CvBridge:
        def imgmsg_to_cv2(self, msg, encoding):
            assert (msg.encoding, encoding) == ("bayer_rggb8", "rgb8")
            return np.repeat(np.asarray(msg.data).reshape(msg.height, msg.width, 1), 3, axis=2)

    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=CvBridge))
    find_cv_bridge.cache_clear()
    try:
        mosaic = image(at(0.5), PIXELS[..., 0].copy(), "bayer_rggb8")
        events, problems = with_one_more(tmp_path, ("/raw/image", mosaic, at(0.5)))
    finally:
        find_cv_bridge.cache_clear()
    assert problems == () and np.array_equal(events[-1].said.image[..., 1], PIXELS[..., 0])


@pytest.mark.parametrize("other_name", ["raw/image", "/raw/image"])
def test_two_cameras_on_one_topic_both_see_it(tmp_path, other_name):
    twice = dataclasses.replace(ROBOT.cameras[0], name="again", topic=other_name)
    robot = dataclasses.replace(ROBOT, cameras=(*ROBOT.cameras, twice))
    events, problems = feed_of(write_bag(tmp_path / "bag", messages()), robot)
    frames = [event.said for event in events if isinstance(event.said, Frame)]
    assert [frame.camera for frame in frames] == ["raw", "again", "packed"] and problems == ()
    assert np.array_equal(frames[1].image, PIXELS)


def test_a_bag_recorded_in_a_namespace_is_matched_by_resolved_names(tmp_path):
    bag = write_bag(tmp_path / "bag", messages("/left/arm"))
    events, problems = feed_of(bag, namespace="left/arm")
    assert len(events) == 9 and problems == ()
    _, problems = feed_of(bag)
    assert any("'/joint_states' is not in the bag, which has /left/arm/joint_states" in line for line in problems)


@pytest.mark.parametrize(
    ("name", "namespace", "resolved"),
    [
        ("joint_states", "", "/joint_states"),
        ("joint_states", "/", "/joint_states"),
        ("vla_policy/task", "/left/", "/left/vla_policy/task"),
        ("/camera/image", "left", "/camera/image"),
    ],
)
def test_names_resolve_as_in_ros(name, namespace, resolved):
    assert resolve_topic(name, namespace) == resolved


def test_a_topic_that_is_missing_is_named(tmp_path):
    missing = [message for message in messages() if message[0] not in ("/joint_states", "/raw/image")]
    events, problems = feed_of(write_bag(tmp_path / "bag", missing))
    assert len(events) == 7
    assert sorted(line.split("'")[1] for line in problems) == ["/joint_states", "/raw/image"]


def test_joint_states_of_wheels_cost_nothing_beside_our_own(tmp_path):
    wheels = joint_state(at(1), ["wheel_left", "wheel_right"], [0, 0])
    events, problems = with_one_more(tmp_path, ("/joint_states", wheels, at(1)))
    assert len(events) == 9 and problems == ()


def test_joint_states_of_other_joints_alone_are_named(tmp_path):
    others = [message for message in messages() if message[0] != "/joint_states"]
    bag = write_bag(tmp_path / "bag", [*others, ("/joint_states", joint_state(at(1), ["wheel\n"], [0]), at(1))])
    events, problems = feed_of(bag)
    assert len(events) == 8 and len(problems) == 1
    assert "'joint_states' lacks a, b, c; it holds wheel\\n" in problems[0]


def test_arm_and_gripper_in_messages_of_their_own_are_one_source_and_a_joint_that_nobody_sends_is_named(tmp_path):
    others = [message for message in messages() if message[0] != "/joint_states"]
    apart = [
        ("/joint_states", joint_state(at(0.1), ["b", "a"], [2.0, 1.0]), at(0.11)),
        ("/joint_states", joint_state(at(0.12), ["c"], [3.0]), at(0.13)),
    ]
    events, problems = feed_of(write_bag(tmp_path / "apart", [*others, *apart]))
    samples = [event.said.positions.tolist() for event in events if isinstance(event.said, JointSample)]
    np.testing.assert_array_equal(samples, [[1.0, 2.0, np.nan], [np.nan, np.nan, 3.0]])
    assert problems == ()
    _, problems = feed_of(write_bag(tmp_path / "alone", [*others, apart[0]]))
    assert len(problems) == 1 and "'joint_states' lacks c; it holds b, a" in problems[0]


def test_messages_that_cannot_be_used_are_counted_by_kind_and_the_others_go_on(tmp_path):
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    bad = [
        ("/joint_states", joint_state(at(1), ["a", "a"], [1, 2]), at(1)),
        ("/joint_states", joint_state(at(1.1), ["a", "a"], [1, 2]), at(1.1)),
        ("/joint_states", joint_state(at(1.2), JOINTS, [1, 2, np.nan]), at(1.2)),
        ("/raw/image", image(at(1.3), PIXELS[:5]), at(1.3)),
        ("/raw/image", image(at(1.4), PIXELS[:7]), at(1.4)),
        ("/raw/image", image(at(1.5), depth.view(np.uint8).reshape(HEIGHT, WIDTH, 2), "16UC1"), at(1.5)),
        ("/vla_policy/mode", string("DANCING"), at(1.6)),
        ("/vla_policy/teleop", trajectory(0, ["b", "a", "d"], [[1, 2, 3]]), at(1.7)),
        ("/gripper/commands", array(NUMBERS, np.array([0.7, 0.8])), at(1.8)),
        ("/joint_states", joint_state(at(2), JOINTS, [1, 2, 3]), at(2)),
    ]
    events, problems = with_one_more(tmp_path, *bad)
    assert len(events) == 10 and isinstance(events[-1].said, JointSample)
    assert len(problems) == 7 and all("\n" not in line for line in problems)
    assert any(
        "'/joint_states'" in line and "names joint 'a' twice" in line and "(2 times)" in line for line in problems
    )
    assert any("image of 32x5 pixels; expected 32x24" in line and "(2 times)" in line for line in problems)
    assert any("is depth, not colour" in line for line in problems)


@pytest.mark.parametrize("behind_s", [-0.2, 10.5])
def test_a_header_stamp_that_cannot_be_of_its_moment_is_refused_as_live(tmp_path, behind_s):
    events, problems = with_one_more(tmp_path, ("/raw/image", image(at(20 - behind_s), PIXELS), at(20)))
    assert len(events) == 9 and len(problems) == 1 and "header stamp" in problems[0]


def test_a_command_is_due_after_its_own_stamp_where_it_has_one(tmp_path):
    stamped = trajectory(at(0.5), ["a", "b"], [[0.1, 0.2]], 0.02)
    events, problems = with_one_more(tmp_path, (ARM_TOPIC, stamped, at(0.58)))
    of_arm = [e.said for e in events if isinstance(e.said, Command) and e.said.group == "arm"]
    assert [(command.trajectory.stamp_ns, command.due_ns) for command in of_arm] == [(0, at(0.34)), (at(0.5), at(0.52))]
    assert problems == ()


def test_a_command_whose_stamp_cannot_be_of_its_moment_is_refused(tmp_path):
    events, problems = with_one_more(tmp_path, (ARM_TOPIC, trajectory(at(30), ["a", "b"], [[0.1, 0.2]]), at(0.58)))
    assert len(events) == 9 and len(problems) == 1 and "header stamp" in problems[0] and ARM_TOPIC in problems[0]


def test_a_topic_of_another_type_than_the_robot_file_says_is_named(tmp_path):
    bag = write_bag(tmp_path / "bag", messages())
    cameras = (dataclasses.replace(ROBOT.cameras[0], compressed=True), ROBOT.cameras[1])
    events, problems = feed_of(bag, dataclasses.replace(ROBOT, cameras=cameras))
    assert len(events) == 8
    assert len(problems) == 1 and "'/raw/image' holds sensor_msgs/msg/Image; expected" in problems[0]


def test_problems_of_the_bag_are_among_those_of_the_feed(tmp_path):
    bag = write_bag(tmp_path / "bag", messages())
    (bag / "metadata.yaml").unlink()
    events, problems = feed_of(bag)
    assert len(events) == 9 and len(problems) == 1 and "metadata.yaml" in problems[0]


def test_a_jpeg_is_decoded_when_somebody_looks_and_only_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(images, "decode_image", lambda msg: calls.append(1) or decode_image(msg))
    events, _ = feed_of(write_bag(tmp_path / "bag", messages()))
    assert len(calls) == 1, "the raw image only"
    frame = events[3].said
    assert frame.image is frame.image and len(calls) == 2


@pytest.mark.parametrize(
    ("damage", "is_one"),
    [
        (lambda data: data, True),
        (lambda data: data[:-2], False),
        (lambda data: data[: len(data) // 2], False),
        (lambda data: data[:1], False),
        (lambda data: data[:0], False),
        (lambda data: np.zeros(200, np.uint8), False),
        (lambda data: np.concatenate([data[:4], np.full(2, 255, np.uint8), data[6:]]), False),
    ],
)
def test_only_a_whole_jpeg_of_the_right_size_waits_to_be_decoded(damage, is_one):
    msg = jpeg(0, PIXELS)
    msg.data = damage(msg.data)
    assert is_whole_jpeg(msg, WIDTH, HEIGHT) is is_one
    assert not is_whole_jpeg(msg, HEIGHT, WIDTH)


def test_an_undecodable_compressed_image_is_a_problem_at_once(tmp_path):
    broken = jpeg(at(1), PIXELS)
    broken.data = np.arange(100, dtype=np.uint8)
    events, problems = with_one_more(tmp_path, ("/packed/image/compressed", broken, at(1)))
    assert len(events) == 9 and len(problems) == 1 and "cannot be decoded" in problems[0]


def test_a_frozen_camera_is_known_by_what_it_sent_without_decoding(tmp_path):
    other = PIXELS.copy()
    other[-1, -1] += 100
    shown = [(0.5, PIXELS), (1.0, PIXELS), (1.5, PIXELS), (2.0, other)]
    more = [("/packed/image/compressed", jpeg(at(s), picture), at(s)) for s, picture in shown]
    events, _ = with_one_more(tmp_path, *more)
    buffer, still_s = FrameBuffer(), []
    for event in events:
        if isinstance(event.said, Frame) and event.said.camera == "packed":
            buffer.add(event.said)
            still_s.append(round(buffer.still_s(0), 3))
    assert still_s == [0.0, 0.3, 0.8, 1.3, 0.0]


def test_a_change_anywhere_in_the_picture_is_a_change():
    buffer = FrameBuffer()
    pictures = [np.zeros((480, 640, 3), np.uint8) for _ in range(3)]
    pictures[2][-1, -1, -1] = 1
    for i, picture in enumerate(pictures, 1):
        buffer.add(Frame("raw", i * NS_PER_S, i * NS_PER_S, picture))
        assert buffer.still_s(0) == (1.0 if i == 2 else 0.0)


def test_joint_states_of_two_arms_with_equal_names_are_told_apart_by_their_topics(tmp_path):
    left, right = (
        JointStateConfig("left/joint_states", ("a", "b"), {"j1": "a", "j2": "b"}),
        JointStateConfig("right/joint_states", ("c",), {"j1": "c"}),
    )
    bag = write_bag(
        tmp_path / "bag",
        [
            ("/left/joint_states", joint_state(at(0.1), ["j2", "j1"], [2.0, 1.0]), at(0.11)),
            ("/right/joint_states", joint_state(at(0.2), ["j1"], [3.0]), at(0.21)),
            ("/right/joint_states", joint_state(at(0.3), ["wheel"], [9.0]), at(0.31)),
        ],
    )
    events, problems = feed_of(bag, replace(ROBOT, joint_states=(left, right)))
    samples = [event.said for event in events]
    expected = [[1.0, 2.0, np.nan], [np.nan, np.nan, 3.0]]
    np.testing.assert_array_equal([sample.positions for sample in samples], expected)
    assert not any("wheel" in line for line in problems)


def packed_messages(*topics):
    """The usual bag with the raw camera's images on ``topics``: raw, or as JPEG where they are called compressed."""
    pictures = [
        (topic, (jpeg if topic.endswith("/compressed") else image)(at(0.2), PIXELS), at(0.22)) for topic in topics
    ]
    return [*(message for message in messages() if message[0] != "/raw/image"), *pictures]


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "cut off"])
@pytest.mark.parametrize(
    ("topics", "is_jpeg"),
    [(["/raw/image/compressed"], True), (["/raw/image"], False), (["/raw/image", "/raw/image/compressed"], False)],
)
def test_images_compressed_as_they_were_recorded_are_read_as_the_cameras_own(tmp_path, topics, is_jpeg, is_whole):
    bag = write_bag(tmp_path / "bag", packed_messages(*topics))
    if not is_whole:
        (bag / "metadata.yaml").unlink()
        cut_off_index(bag)
    events, problems = feed_of(bag)
    (frame,) = (event.said for event in events if isinstance(event.said, Frame) and event.said.camera == "raw")
    expected = decode_image(jpeg(0, PIXELS)) if is_jpeg else PIXELS
    np.testing.assert_array_equal(frame.image, expected)
    assert not any("/raw/image" in problem for problem in problems)


def cut_off_index(bag):
    """A recording that was killed: its end, which says what it holds, is missing."""
    (path,) = bag.glob("*.mcap")
    path.write_bytes(path.read_bytes()[:-60])


def test_a_leaders_joint_states_are_the_hand_that_leads(tmp_path):
    leader = TeleopConfig("joint_states", "leader/joint_states", rename={"b_": "b"}, sign={"b": -1})
    robot = replace(ROBOT, teleop=(leader,))
    said = joint_state(at(0.34), ["b_", "a"], [0.2, 0.1])
    foreign = joint_state(at(0.34), ["wheel"], [9.0])
    bag = write_bag(
        tmp_path / "bag", [*messages(), *(("/leader/joint_states", msg, at(0.35)) for msg in (foreign, said))]
    )
    hands = [event.said for event in feed_of(bag, robot)[0] if isinstance(event.said, Teleop)]
    assert [hand.topic for hand in hands] == ["vla_policy/teleop", "leader/joint_states"]
    np.testing.assert_allclose(hands[1].trajectory.positions, [[0.1, -0.2, np.nan]])
