"""The operator's page without ROS and without a network: who may come, what they may ask for, what is drawn."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file
from vla_ros.types import MAX_TASK_CHARACTERS
from vla_ros.urdf import parse_urdf
from vla_ros.view.access import MAX_WRONG, WRONG_WINDOW_S, Access, Grant, WrongTokens, make_access, read_tokens
from vla_ros.view.acts import Act, read_act
from vla_ros.view.board import Board, stages_of
from vla_ros.view.meshes import read_stl
from vla_ros.view.pictures import MAX_HEIGHT, MAX_WIDTH, encode_picture, scaled
from vla_ros.view.scene import describe, draw

ANNA, BEN = "0123456789abcdef-anna", "0123456789abcdef-ben"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may come\nanna {ANNA}\nben {BEN} read-only\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.7", "::1", "localhost"])
def test_this_machine_needs_no_token(address: str) -> None:
    access = make_access(address, "", False)
    assert access.grant("127.0.0.1", "") == Grant("operator", may_act=True)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "robot.local", ""])
def test_an_address_that_others_reach_is_refused_without_a_token(address: str) -> None:
    with pytest.raises(ValueError, match="there is no token; give a token file, or keep 127.0.0.1"):
        make_access(address, "", False)


def test_a_token_says_who_comes_and_whether_they_may_act(token_file: Path) -> None:
    access = make_access("0.0.0.0", str(token_file), False)
    assert access.grant("10.0.0.1", ANNA) == Grant("anna", may_act=True)
    assert access.grant("10.0.0.1", BEN) == Grant("ben", may_act=False)
    read_only = make_access("0.0.0.0", str(token_file), True)
    assert read_only.grant("10.0.0.1", ANNA) == Grant("anna", may_act=False)


@pytest.mark.parametrize("token", ["", ANNA[:-1], ANNA + "x", ANNA.upper(), "\udcff", "ä" * 20])
def test_a_wrong_token_is_refused_and_never_repeated(token_file: Path, token: str) -> None:
    access = make_access("0.0.0.0", str(token_file), False)
    with pytest.raises(ValueError, match="wrong token") as refused:
        access.grant("10.0.0.1", token)
    assert not token or token not in str(refused.value)


def test_who_guesses_is_looked_at_no_more_for_a_while_and_others_are() -> None:
    now_s = 1000.0
    access = Access(((ANNA.encode(), Grant("anna", True)),), wrong=WrongTokens(lambda: now_s))
    for number in range(MAX_WRONG):
        with pytest.raises(ValueError, match="wrong token"):
            access.grant("10.0.0.1", f"guess {number}")
    with pytest.raises(ValueError, match="too many wrong tokens"):
        access.grant("10.0.0.1", ANNA)
    assert access.grant("10.0.0.2", ANNA).may_act
    now_s += WRONG_WINDOW_S + 1
    assert access.grant("10.0.0.1", ANNA).may_act


@pytest.mark.parametrize(
    "text, mode, line",
    [
        (f"anna {ANNA}\n", 0o644, "its mode is 644; expected 600"),
        ("", 0o600, "it has no token"),
        (ANNA, 0o600, "line 1 has 1 words"),
        (f"anna {ANNA} admin", 0o600, "line 1 has 3 words"),
        ("anna secret", 0o600, "the token of 'anna' has 6 characters; expected at least 16"),
        (f"anna {ANNA}\nben {ANNA}\n", 0o600, "two lines have the same token"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, text: str, mode: int, line: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"token file {path}: ") as refused:
        read_tokens(path)
    assert line in str(refused.value) and ANNA not in str(refused.value) and "secret" not in str(refused.value)


def test_only_the_pages_own_origin_and_this_machines_names_are_answered() -> None:
    access = make_access("127.0.0.1", "", False)
    assert not access.refuse_request("localhost:8080", None)
    assert not access.refuse_request("localhost:9000", "http://localhost:9000"), "through a tunnel"
    assert not access.refuse_request("[::1]:8080", "http://[::1]:8080")
    for host, origin in (
        ("localhost:8080", "http://evil.example"),
        ("localhost:8080", "http://localhost:9999"),
        ("localhost:8080", "null"),
        ("localhost:8080", "http://["),
        ("evil.example:8080", "http://evil.example:8080"),  # its name may lead here
        ("", None),
    ):
        assert access.refuse_request(host, origin), (host, origin)


@pytest.mark.parametrize(
    "message, act",
    [
        ('{"act": "stop"}', Act("stop")),
        ('{"act": "engage"}', Act("engage")),
        ('{"act": "instruct", "text": " <script>x</script> "}', Act("instruct", text="<script>x</script>")),
        ('{"act": "instruct", "text": "ارفع المكعب"}', Act("instruct", text="ارفع المكعب")),
        ('{"act": "mark", "mark": "success"}', Act("mark", text="success")),
        ('{"act": "jog", "joint": "elbow", "share": -0.5}', Act("jog", joint="elbow", share=-0.5)),
    ],
)  # fmt: skip
def test_an_act_is_read(message: str, act: Act) -> None:
    assert read_act(message) == act


@pytest.mark.parametrize(
    "document, line",
    [
        ([], "message names no act"),
        ({"act": 1}, "message names no act"),
        ({"act": "format"}, "act is 'format'; expected one of stop"),
        ({"act": "mark", "mark": "perfect"}, "mark is 'perfect'"),
        ({"act": "jog", "joint": "elbow", "share": 1.5}, "share of a joint's speed is 1.5"),
        ({"act": "jog", "joint": "elbow", "share": True}, "share of a joint's speed is True"),
        ({"act": "instruct"}, "instruction is empty"),
        ({"act": "instruct", "text": " \n "}, "instruction is empty"),
        ({"act": "instruct", "text": "x" * 10_000}, f"has 10000 characters; expected at most {MAX_TASK_CHARACTERS}"),
        ({"act": "instruct", "text": "touch\x07 it"}, "control character U+0007 at 5"),
        ({"act": "instruct", "text": "touch\nit"}, "control character U+000A at 5"),
        ({"act": "instruct", "text": "\ud800"}, "control character U+D800"),
    ],
)
def test_whatever_else_a_page_sends_is_refused_in_one_line(document: object, line: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_act(json.dumps(document))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_an_instruction_is_one_printable_line_in_the_log() -> None:
    assert Act("instruct", text="\u202ereversed").line == "instruction '\\u202ereversed'"


def test_the_board_says_who_drives_and_since_when() -> None:
    now_s = 100.0
    board = Board(lambda: now_s)
    board.set_mode("HOLD")
    assert board.message()["known"] is False and board.driver == "nobody"
    now_s = 105.0
    board.set_mode("POLICY")
    board.set_mode("POLICY")
    message = board.message()
    assert (message["known"], message["since"], message["driver"]) == (True, 105.0, "the policy")
    board.set_mode("TELEOP")
    assert board.driver == "a human"
    board.jogger = "anna 1 (10.0.0.1)"
    assert board.driver == "anna 1 (10.0.0.1)"


def test_a_fault_lasts_from_its_first_word_to_its_last_whatever_its_numbers() -> None:
    now_s = 100.0
    board = Board(lambda: now_s)
    for age_s in ("0.52", "0.61"):
        board.set_faults("policy", {"camera": f"camera 'front' is {age_s} s old"})
        now_s += 1
    board.set_faults("page", {"policy node": "silent"})
    board.set_faults("policy", {})
    now, past = board.message()["faults"]
    assert (now["line"], now["until"]) == ("silent", None)
    assert past == {"line": "camera 'front' is 0.61 s old", "since": 100.0, "until": 102.0}


def test_recent_instructions_are_kept_each_once() -> None:
    board = Board()
    for number in (*range(20), 15):
        board.set_task(f"task {number}")
    tasks = board.message()["tasks"]
    assert tasks[:2] == ["task 15", "task 19"] and len(tasks) == len(set(tasks)) == 8


def test_stages_are_read_out_of_a_status() -> None:
    values = {
        "link_ms_p50": "1.5",
        "link_ms_p99": "4",
        "control_period_ms_budget": "30",
        "mode": "HOLD",
        "x_ms_p50": "?",
    }
    stages = stages_of(values.items())
    assert stages["link"] == {"p50": 1.5, "p99": 4.0} and stages["control_period"] == {"budget": 30.0}


@pytest.mark.parametrize("name", ["tabletop", "so101", "aloha", "franka_droid", "ur5e_robotiq"])
def test_every_packaged_robot_is_drawn_with_every_driven_joint_in_it(name: str) -> None:
    path = robot_file(name)
    robot = load_robot(path)
    scene = draw(path, robot)
    assert not scene["notes"] and json.dumps(scene, allow_nan=False)
    links = scene["links"]
    assert all(link["parent"] < number for number, link in enumerate(links))
    moved = {link["column"] for link in links if link["kind"] != "fixed"}
    drawn = {robot.joint_names[column] for column in moved - {-1}}
    assert len(drawn) >= robot.num_joints - 2, "a gripper may be missing"
    tips = [links[tip]["name"] for tip in scene["tips"]]
    assert tips == [robot.kinematics.tip] if robot.kinematics is not None else len(tips) == 2


def test_a_robot_without_a_urdf_shows_its_joints(robot: RobotConfig) -> None:
    scene = describe(replace(robot, kinematics=None), None, None)
    assert scene["links"] == [] and "no URDF" in scene["notes"][0]
    assert [joint["name"] for joint in scene["joints"]] == list(robot.joint_names)
    assert scene["cameras"][0] == {"name": "front", "width": 128, "height": 128}


def test_a_mimic_joint_follows_and_an_unusable_number_is_none(robot: RobotConfig) -> None:
    urdf = parse_urdf(
        "<robot><link name='a'><visual><geometry><box size='1 nan 1'/></geometry></visual></link><link name='b'/>"
        "<joint name='x' type='prismatic'><parent link='a'/><child link='b'/><axis xyz='0 0 1'/>"
        "<mimic joint='gripper' multiplier='-2' offset='0.5'/></joint></robot>",
        "it",
    )
    root, link = describe(robot, urdf, None)["links"]
    assert (link["column"], link["factor"], link["offset"]) == (5, -2.0, 0.5)
    assert root["shapes"][0]["size"] == [0.02, 0.02, 0.02]


def stl(num: int) -> bytes:
    return bytes(80) + struct.pack("<I", num) + b"".join(struct.pack("<12fH", *range(12), 0) for _ in range(num))


def test_a_mesh_is_read_and_one_that_cannot_be_is_named(tmp_path: Path, robot: RobotConfig) -> None:
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "good.stl").write_bytes(stl(2))
    (tmp_path / "meshes" / "bad.stl").write_bytes(stl(2)[:-1])
    (tmp_path / "meshes" / "text.stl").write_text("solid x\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendsolid")
    names = ("package://meshes/good.stl", "meshes/bad.stl", "meshes/text.stl", "meshes/none.dae")
    visuals = "".join(
        f"<visual><geometry><mesh filename='{name}' scale='2 2 2'/></geometry></visual>" for name in names
    )
    urdf = parse_urdf(f"<robot><link name='a'>{visuals}</link></robot>", "it")
    scene = describe(robot, urdf, tmp_path / "urdf")
    good = describe(robot, urdf, tmp_path)
    assert [len(shape["corners"]) for shape in good["links"][0]["shapes"]] == [9]
    assert [shape["corners"][:3] for shape in scene["links"][0]["shapes"]] == [[6.0, 8.0, 10.0]]
    assert any("bad.stl is not drawn" in note for note in good["notes"])
    with pytest.raises(ValueError, match="it has 2 triangles; expected at most 1 in all"):
        read_stl(tmp_path / "meshes" / "good.stl", 1)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (128, 128), (4000, 10), (1, 1)])
def test_a_picture_travels_no_larger_than_a_page_shows_it(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    height, width = scaled(image).shape[:2]
    assert 1 <= height <= MAX_HEIGHT and 1 <= width <= MAX_WIDTH
    assert size[0] > MAX_HEIGHT or size[1] > MAX_WIDTH or (height, width) == size
    message = encode_picture(3, 12.5, image)
    assert message[1] == 3 and message[12:14] == b"\xff\xd8"
