"""What `vla_ros check` makes of a graph, and the page it writes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from check_helpers import (
    FROM_DESIRED,
    IMAGE,
    JOINT_STATE,
    MS,
    NEEDS,
    NONZERO_END,
    NOW_NS,
    SET_WELL,
    TRAJECTORY,
    camera_seen,
    front,
    graph,
    joints_seen,
    output_seen,
    problems,
    stream,
    topic,
)
from runtime_helpers import APART, ROBOT

from vla_ros.check.finding import Finding, Level, is_good, page, to_json
from vla_ros.check.judge import judge
from vla_ros.check.seen import ControllerSettings, Endpoint, HandSeen, Picture, Range, Stream, TopicSeen
from vla_ros.hands import hands_of
from vla_ros.robot.parts import OutputConfig, TeleopConfig

COMPRESSED = "sensor_msgs/msg/CompressedImage"
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
BOOL = "std_msgs/msg/Bool"
FORWARD_ROBOT = replace(ROBOT, outputs=(OutputConfig("arm", ("shoulder", "elbow"), "forward"),))
FORWARD = "std_msgs/msg/Float64MultiArray"


def shifted(shift_ms: float) -> Stream:
    return stream(age_ms=10 + shift_ms)


def restamped(stamps_ns: np.ndarray) -> Stream:
    return Stream(stream().received_ns, stamps_ns)


STAMPS_NS = stream().stamps_ns
EARLY_NS = STAMPS_NS[0] + np.array([-200, -150]) * MS
HALF_BACK_NS = np.concatenate([STAMPS_NS[:50], STAMPS_NS[:50]])

FAST = stream(period_ms=10, age_ms=1, num=500)
TWO_DRIVERS = TopicSeen("/joint_states", (Endpoint("/arm", JOINT_STATE), Endpoint("/hand", JOINT_STATE)))
OTHER_CLOCK = graph(joint_states=(joints_seen(stream(period_ms=10, age_ms=60, num=500)),))
SPOILT = {
    # what is wrong: (graph, level, subject, part of what was got, part of where to fix it)
    "no publisher": (front(topic=TopicSeen("/front/image")), "FAIL", "camera front: publisher", "nobody", "topic of"),
    "other type": (
        front(topic=topic("/f", "std_msgs/msg/String")),
        *("FAIL", "camera front: publisher", "String", "topic"),
    ),
    "compressed": (
        front(topic=topic("/f", COMPRESSED)),
        *("FAIL", "camera front: publisher", COMPRESSED, "compressed: true"),
    ),
    "two publishers": (
        front(topic=TopicSeen("/f", (Endpoint("/a", IMAGE), Endpoint("/b", IMAGE)))),
        *("WARN", "camera front: publisher", "/a, /b", "end the others"),
    ),
    "silent": (front(stream=stream(num=0), pictures={}), "FAIL", "camera front: rate", "no messages in 5 s", "driver"),
    "one image": (front(stream=stream(num=1)), "FAIL", "camera front: rate", "1 message in 5 s", "driver"),
    "slow": (front(stream=stream(period_ms=400, num=12)), "FAIL", "camera front: rate", "2.5 Hz", "max_age_s"),
    "dead": (
        front(stream=replace(stream(), until_ns=int(stream().received_ns[-1]) + 2_500 * MS)),
        *("FAIL", "camera front: rate", "silent for the last 2.5 s", "driver"),
    ),
    "late": (front(stream=shifted(280)), "FAIL", "camera front: age", "290 ms before arrival", "clocks"),
    "ahead": (front(stream=shifted(-310)), "FAIL", "camera front: age", "0.30 s ahead of now", "clocks"),
    "another clock": (
        front(stream=restamped(STAMPS_NS - NOW_NS + 1)),
        *("FAIL", "camera front: age", "19,676 days before arrival", "use_sim_time"),
    ),
    "no stamps": (front(stream=restamped(0 * STAMPS_NS)), "FAIL", "camera front: stamps", "100 of 100", "header.stamp"),
    "backwards": (
        front(stream=restamped(HALF_BACK_NS)),
        *("FAIL", "camera front: stamps", "go back 1 times", "looping bag"),
    ),
    "frozen": (
        front(stream=restamped(0 * STAMPS_NS + NOW_NS)),
        *("FAIL", "camera front: stamps", "99 of 100", "stands still"),
    ),
    "size": (
        front(pictures={Picture(8, 3, "rgb8"): 9}),
        *("FAIL", "camera front: size", "8x3 pixels", "width and height"),
    ),
    "torn": (
        front(pictures={Picture(4, 3, "rgb8", "9 bytes"): 9}),
        *("FAIL", "camera front: picture", "9 bytes", "driver"),
    ),
    "depth": (
        front(pictures={Picture(4, 3, "16UC1"): 9}),
        *("FAIL", "camera front: encoding", "is depth", "colour image"),
    ),
    "bayer": (
        front(pictures={Picture(4, 3, "bayer_rggb8"): 9}),
        *("FAIL", "camera front: encoding", "bayer", "cv_bridge"),
    ),
    "skew": (
        front(stream=Stream(EARLY_NS, EARLY_NS)),
        *("FAIL", "cameras: skew", "175 ms apart, at most 200 ms", "max_camera_skew_s"),
    ),
    "no joints": (
        graph(joint_states=(joints_seen(came={"wheel": None}, streams={}, positions={}),)),
        *("FAIL", "joint states: names", "no shoulder, elbow; wheel came", "joint names in the robot file"),
    ),
    "a joint that nobody sends": (
        graph(joint_states=(joints_seen(streams={("shoulder",): FAST}, came=dict.fromkeys(("shoulder", "jaw"))),)),
        *("FAIL", "joint states: names", "no elbow; jaw came", "joint names in the robot file"),
    ),
    "a joint that comes too seldom": (
        graph(joint_states=(joints_seen(streams={("shoulder",): FAST, ("elbow",): stream(400, 1, 12)}),)),
        *("FAIL", "joint states of elbow on 'joint_states': rate", "2.5 Hz", "max_age_s"),
    ),
    "two publishers of one joint": (
        graph(joint_states=(joints_seen(contested={"elbow": None}, topic=TWO_DRIVERS),)),
        *("FAIL", "joint states: publisher", "two of /arm, /hand send elbow", "end the other"),
    ),
    "nan": (
        graph(joint_states=(joints_seen(refused={"a is nan": 3}),)),
        *("FAIL", "joint states: values", "3 of 500", "driver"),
    ),
    "slow joints": (
        graph(joint_states=(joints_seen(stream(period_ms=100, age_ms=1, num=500)),)),
        *("WARN", "joint states: rate", "10.0 Hz", "update rate"),
    ),
    "outside": (
        graph(joint_states=(joints_seen(positions={"shoulder": Range(0.0, 1.3)}),)),
        *("FAIL", "joint states: limits", "shoulder at 1.300", "lower and upper of 'shoulder'"),
    ),
    "degrees": (
        graph(joint_states=(joints_seen(positions={"elbow": Range(-90.0, -89.0)}),)),
        *("FAIL", "joint states: limits", "elbow at -90.000", "degrees"),
    ),
    "driver on another clock": (
        OTHER_CLOCK,
        *("WARN", "joint states: clock", "60 ms before they arrive, at best", "stamp: zero"),
    ),
    "on the stop": (
        graph(joint_states=(joints_seen(positions={"shoulder": Range(-1.01, 0.0)}),)),
        *("WARN", "joint states: limits", "shoulder at -1.010", "inward only"),
    ),
    "no controller": (
        graph(outputs={"arm": replace(output_seen(), topic=TopicSeen("/c"))}),
        *("FAIL", "output arm: controller", "nobody listens on /c", "load and activate"),
    ),
    "other interface": (
        graph(outputs={"arm": output_seen(kind=FORWARD)}),
        *("FAIL", "output arm: controller", "Float64MultiArray", "interface or topic"),
    ),
    "latched controller": (
        graph(outputs={"arm": output_seen(transient_local=True)}),
        *("FAIL", "output arm: controller", "transient local", "QoS"),
    ),
    "another driver": (
        graph(outputs={"arm": output_seen(publishers=(Endpoint("/rviz", TRAJECTORY),))}),
        *("WARN", "output arm: drivers", "/rviz publishes commands too", "end them"),
    ),
    "two policy nodes": (
        graph(outputs={"arm": output_seen(publishers=(Endpoint("/vla_policy", TRAJECTORY),) * 2)}),
        *(
            "FAIL",
            "rivals: /joint_trajectory_controller/joint_trajectory",
            "/vla_policy, /vla_policy",
            "end the others",
        ),
    ),
    "images lost": (
        graph(num_lost={ROBOT.cameras[0].topic: 40}, cure_of_losses="start it with PROFILES=fastdds.xml"),
        *("WARN", "images: lost", "40 of", "with PROFILES=fastdds.xml"),
    ),
    "two model nodes": (
        graph(of_the_nodes=(TopicSeen("/vla_model/status", (Endpoint("/vla_model", STATUS),) * 2),)),
        *("FAIL", "rivals: /vla_model/status", "has 2 publishers: /vla_model, /vla_model", "end the others"),
    ),
    "controller's joints": (
        graph(outputs={"arm": output_seen(ControllerSettings(("shoulder",), SET_WELL))}),
        *("FAIL", "output arm: joints", "/arm_controller has shoulder", "YAML of /arm_controller"),
    ),
    "controller falls back": (
        graph(outputs={"arm": output_seen(ControllerSettings(ROBOT.joint_names, SET_WELL | {FROM_DESIRED: False}))}),
        *("WARN", "output arm: settings", "interpolate_from_desired_state is false", "YAML"),
    ),
    "controller runs on": (
        graph(outputs={"arm": output_seen(ControllerSettings(ROBOT.joint_names, SET_WELL | {NONZERO_END: True}))}),
        *("WARN", "output arm: settings", "allow_nonzero_velocity_at_trajectory_end is true", "YAML"),
    ),
    "estop of another type": (
        graph(estop=topic("/vla_policy/estop", TRAJECTORY)),
        *("FAIL", "people: estop", "/driver publishes", "the type"),
    ),
}


def test_a_graph_in_which_everything_fits_gives_no_problem_and_names_every_part():
    findings = judge(ROBOT, graph(), NEEDS)
    assert [finding for finding in findings if finding.level is not Level.OK] == []
    parts = ["camera front", "camera wrist", "cameras", "joint states", "output arm", "people", "policy"]
    assert list(dict.fromkeys(finding.part for finding in findings)) == parts


@pytest.mark.parametrize("what", SPOILT)
def test_each_thing_that_does_not_fit_is_one_finding_with_a_place_to_fix_it(what):
    seen, level, subject, got, fix = SPOILT[what]
    (finding,) = problems(seen)
    assert (finding.level.value, finding.subject) == (level, subject)
    assert got in finding.got and fix in finding.fix and finding.expected


def test_people_are_heard_whatever_the_quality_of_service_of_their_device():
    estop = topic("/vla_policy/estop", BOOL, reliable=False)
    hand = topic("/vla_policy/teleop", TRAJECTORY, reliable=False)
    assert problems(graph(estop=estop, hands={"vla_policy/teleop": HandSeen(hand)})) == []


@pytest.mark.parametrize(("rate_hz", "num_lost", "fix"), [(90.0, 1, "PROFILES"), (90.0, 0, "exposure"), (22.0, 0, "")])
def test_a_camera_slower_than_the_robot_file_expects_is_named_with_what_may_help(rate_hz, num_lost, fix):
    first, second = ROBOT.cameras
    robot = replace(ROBOT, cameras=(replace(first, rate_hz=rate_hz), second))
    found = problems(graph(num_lost={first.topic: num_lost}, cure_of_losses="PROFILES=fastdds.xml"), robot)
    expected = [(Level.WARN, "camera front: rate_hz")] if fix else []
    assert [(finding.level, finding.subject) for finding in found] == expected
    for finding in found:
        assert "90 Hz (rate_hz of camera 'front'" in finding.expected and fix in finding.fix


SAID = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)), name=["elbow"], position=[0.5])


@pytest.mark.parametrize(
    ("kind", "said", "got"),
    [
        (JOINT_STATE, {}, ""),
        (TRAJECTORY, {}, f"publishes /leader/joint_states as {TRAJECTORY}"),
        (JOINT_STATE, {"name": ["joint_1"]}, "/leader/joint_states holds joint_1"),
        (JOINT_STATE, {"position": [math.nan]}, "1 of 1 messages of /leader/joint_states can't be followed: joint"),
    ],
)
def test_a_leader_arm_of_the_robot_file_is_looked_for_on_its_topic_and_by_its_joints(kind, said, got):
    robot = replace(ROBOT, teleop=(TeleopConfig("joint_states", "leader/joint_states"),))
    leader = HandSeen(topic("/leader/joint_states", kind))
    leader.add(hands_of(robot)[0], robot.joint_names, SimpleNamespace(**{**vars(SAID), "velocity": [], **said}))
    found = problems(graph(hands={**graph().hands, "leader/joint_states": leader}), robot)
    assert [finding.level for finding in found] == [Level.FAIL] * bool(got)
    assert all(got in finding.got for finding in found)


def test_a_driver_on_another_clock_is_no_problem_where_commands_start_on_receipt():
    robot = replace(ROBOT, outputs=tuple(replace(output, stamp="zero") for output in ROBOT.outputs))
    assert problems(OTHER_CLOCK, robot) == []


def test_an_image_late_once_is_a_warning_and_late_as_a_rule_a_failure():
    received_ns = np.delete(stream().received_ns, slice(50, 56))
    (finding,) = problems(front(stream=Stream(received_ns, received_ns - 10 * MS)))
    assert (finding.level, finding.subject) == (Level.WARN, "camera front: age")
    assert "once 0.36 s when the next came" in finding.got


def test_an_encoding_that_cv_bridge_reads_is_a_warning_where_it_is_installed():
    seen = replace(front(pictures={Picture(4, 3, "yuv422"): 9}), has_cv_bridge=True)
    assert [(finding.level, finding.aspect) for finding in problems(seen)] == [(Level.WARN, "encoding")]


def test_a_compressed_camera_is_judged_by_its_own_type_and_format():
    robot = replace(ROBOT, cameras=(replace(ROBOT.cameras[0], compressed=True),))
    pictures = {Picture(4, 3, "rgb8; jpeg compressed bgr8"): 9}
    seen = camera_seen("front", topic=topic("/f", COMPRESSED), pictures=pictures)
    assert problems(graph(cameras={"front": seen}), robot) == []
    assert "compressed: false" in problems(front(), robot)[0].fix


@pytest.mark.parametrize(
    ("text", "got", "fix"),
    [
        ("16UC1; png compressed ", "depth", "colour topic"),
        ("32FC1; compressedDepth png", "depth", "colour topic"),
        ("bayer_rggb8; png compressed ", "a mosaic", "debayered"),
        ("yuv422_yuy2; jpeg compressed mono8", "grey", "driver's encoding"),
    ],
)
def test_a_compressed_camera_that_is_not_colour_fails_by_its_format(text, got, fix):
    robot = replace(ROBOT, cameras=(replace(ROBOT.cameras[0], compressed=True),))
    seen = front(topic=topic("/f", COMPRESSED), pictures={Picture(4, 3, text): 9})
    (finding,) = problems(seen, robot)
    assert (finding.subject, finding.level) == ("camera front: encoding", "FAIL")
    assert finding.got == f"'{text}', which is {got}" and fix in finding.fix


def test_extra_joints_are_named_and_do_no_harm():
    seen = graph(joint_states=(joints_seen(came=dict.fromkeys(("shoulder", "elbow", "wheel"))),))
    assert problems(seen) == []
    assert "1 more are ignored: wheel" in next(f.got for f in judge(ROBOT, seen) if f.subject == "joint states: names")


def test_arm_and_hand_in_messages_of_their_own_are_judged_apart_and_fit():
    apart = joints_seen(streams={("shoulder",): FAST, ("elbow",): stream(100, 1, 50)}, topic=TWO_DRIVERS)
    slow = "joint states of elbow on 'joint_states': rate"
    assert [finding.subject for finding in problems(graph(joint_states=(apart,)))] == [slow], "10 Hz of 50"
    quick = replace(apart, streams={("shoulder",): FAST, ("elbow",): stream(20, 1, 250)})
    assert problems(graph(joint_states=(quick,))) == []


def test_a_joint_in_every_second_message_is_as_old_as_those():
    whole, other = stream(20, 1, 250), stream(20, 1, 250)
    other.received_ns, other.stamps_ns = other.received_ns + 10 * MS, other.stamps_ns + 10 * MS
    mixed = {("shoulder", "elbow"): whole, ("shoulder",): other}
    together = joints_seen(streams=mixed).together()
    assert {own: len(told) for own, told in together.items()} == {("shoulder",): 500, ("elbow",): 250}
    assert problems(graph(joint_states=(joints_seen(streams=mixed),))) == [], "what a driver leaves out now and then"


def test_one_of_several_sources_that_is_silent_is_the_one_that_fails():
    arm = joints_seen(names=("shoulder",), topic=topic("/arm/joint_states", JOINT_STATE))
    hand = replace(arm, topic=topic("/hand/joint_states", JOINT_STATE), positions={})
    assert problems(graph(joint_states=(arm, hand)), APART) == []
    silent = graph(joint_states=(arm, replace(hand, topic=TopicSeen("/hand/joint_states"), streams={}, came={})))
    (finding,) = problems(silent, APART)
    assert finding.subject == "joint states on 'hand/joint_states': publisher" and finding.level is Level.FAIL


def test_a_forward_controller_must_have_the_joints_in_the_order_in_which_the_numbers_come():
    def seen(*joints: str):
        return graph(outputs={"arm": output_seen(ControllerSettings(joints), FORWARD)})

    assert problems(seen("shoulder", "elbow"), FORWARD_ROBOT) == []
    (finding,) = problems(seen("elbow", "shoulder"), FORWARD_ROBOT)
    assert finding.level is Level.FAIL and "in this order" in finding.expected


@pytest.mark.parametrize(
    "changes, aspects, fix",
    [
        ({"joint_names": ("elbow", "shoulder")}, ["joints"], "the order"),
        ({"joint_names": ("shoulder", "hand")}, ["joints"], "names"),
        ({"camera_names": ("front", "top")}, ["cameras"], "add top"),
        ({"image_sizes": {"front": (3, 640), "wrist": (3, 640)}}, ["size", "size"], "driver and robot file"),
        ({"image_sizes": {"front": (3, 4), "wrist": (4, 3)}}, ["size"], "driver and robot file"),
        ({"misfit": "joint 'elbow' in rad is from -90 to 90"}, ["space"], "data in policy.yaml, or the robot file"),
    ],
)
def test_a_policy_for_another_robot_is_a_failure(changes, aspects, fix):
    findings = problems(graph(), policy=replace(NEEDS, **changes))
    assert [(finding.level, finding.part) for finding in findings] == [(Level.FAIL, "policy")] * len(aspects)
    assert [finding.aspect for finding in findings] == aspects
    assert fix in findings[0].fix


def test_poses_that_this_robot_cannot_reach_are_a_warning_and_cameras_may_have_any_size():
    line = "3 of 50 poses of 'tip' are missed by up to 20.0 mm and 0.1 deg"
    (finding,) = problems(
        graph(), policy=replace(NEEDS, shortfall=line, image_sizes={"front": (0, 0), "wrist": (0, 0)})
    )
    assert (finding.level, finding.aspect, finding.got) == (Level.WARN, "space", line)


def test_a_joint_that_the_policy_moves_and_no_output_drives_is_a_warning():
    (finding,) = problems(graph(), policy=replace(NEEDS, unmoved=("elbow",)))
    assert (finding.level, finding.part, finding.aspect) == (Level.WARN, "policy", "fixed")
    assert "moves elbow, which the robot file has fixed" in finding.got


def test_a_camera_the_policy_does_not_look_at_may_fail():
    seen = front(topic=TopicSeen("/front/image"))
    (finding,) = problems(seen, policy=replace(NEEDS, camera_names=("wrist",)))
    assert (finding.level, finding.part) == (Level.WARN, "camera front")


def test_warnings_are_good_and_one_failure_is_not():
    warning = Finding(Level.WARN, "cameras", "skew", "60 ms", "50 ms", "max_camera_skew_s")
    assert is_good([warning])
    values = {"subject": "cameras: skew", "got": "60 ms", "expected": "50 ms", "fix": "max_camera_skew_s"}
    assert to_json([warning, replace(warning, level=Level.FAIL)]) == {
        "ok": False,
        "findings": [{"level": level, **values} for level in ("WARN", "FAIL")],
    }


def test_the_page_has_a_heading_for_each_part_and_fits_its_width():
    seen = front(pictures={Picture(8, 3, "rgb8"): 9})
    text = page("two_joints", judge(ROBOT, seen, NEEDS), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\ncamera front\n  OK    publisher" in text
    assert "  FAIL  size        8x3 pixels\n                    expected  4x3 pixels\n" in text
    assert text.splitlines()[-1].startswith("does not fit: 1 FAIL, 0 WARN, ")
    assert "\x1b" not in text and "\x1b[31;1mFAIL\x1b[0m" in page("", judge(ROBOT, seen), colours=True)
