"""What an import is told and what it finds, against each other: no weights are read for any of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.policies.importing import hub
from vla_ros.policies.importing.declaring import assign_cameras, black_slots, check_order, declare, refuse_black
from vla_ros.policies.importing.openpi import OpenPiCheckpoint
from vla_ros.policies.importing.settings import CameraSettings
from vla_ros.policies.importing.source import find_source
from vla_ros.robot import load_robot
from vla_ros.share import robot_file
from vla_ros.spaces.files import joints_of
from vla_ros.spaces.space import parse_space

KEYS = ("observation.images.top", "observation.images.wrist")
CAMERAS = {name: CameraSettings(name, 480, 640) for name in ("front", "side")}
SO101 = joints_of(load_robot(robot_file("so101")))


def assigned(given: list[str], declared: list[dict[str, Any]], keys: tuple[str, ...] = KEYS) -> dict[str, str]:
    return {key: camera.name for key, camera in assign_cameras(keys, given, declared, CAMERAS).items()}


def test_what_the_user_says_of_a_slot_comes_before_what_the_space_says() -> None:
    declared = [{"key": "top", "camera": "side"}, {"key": KEYS[1], "missing": "mask"}]
    assert assigned([], declared) == {KEYS[0]: "side"}
    assert assigned(["top=front", "wrist=side"], declared) == {KEYS[0]: "front", KEYS[1]: "side"}


@pytest.mark.parametrize(
    ("given", "declared", "expected"),
    [
        (["top=front", "top=side", "wrist=none"], [], "--camera top=side: observation.images.top has a camera already"),
        (["top=front", f"{KEYS[0]}=none", "wrist=side"], [], "has a camera already; give each slot one"),
        ([], [{"key": "top", "camera": "front"}, {"key": KEYS[0], "camera": "side"}], "the space has the camera slot"),
        (["top=front"], [{"key": "wrist"}], "which camera is observation.images.wrist"),
    ],
)
def test_a_slot_that_is_said_twice_or_not_at_all_is_refused(
    given: list[str], declared: list[dict[str, Any]], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        assigned(given, declared)


def test_two_slots_whose_last_parts_are_one_are_told_apart_by_their_whole_names() -> None:
    keys = ("left.top", "right.top")
    with pytest.raises(ValueError, match="no such slot"):
        assigned(["top=front"], [], keys)
    with pytest.raises(ValueError, match="say it with --camera right.top=NAME"):
        assigned(["left.top=front"], [], keys)
    assert assigned(["left.top=front", "right.top=side"], [], keys) == {"left.top": "front", "right.top": "side"}


def test_a_slot_is_black_where_the_space_says_so_and_nobody_gives_it_a_camera() -> None:
    declared = [{"key": "top", "camera": "front"}, {"key": "wrist", "missing": "zeros"}]
    assert black_slots(KEYS, {KEYS[0]: CAMERAS["front"]}, declared) == (KEYS[1],)
    assert black_slots(KEYS, {key: CAMERAS["front"] for key in KEYS}, declared) == ()
    with pytest.raises(ValueError, match="missing: zeros for slot 'wrist', and a server gets no picture"):
        refuse_black(("wrist",), "a server")


NAMES = [*SO101.names]
SWAPPED = [NAMES[1], NAMES[0], *NAMES[2:]]
ACTION = parse_space([{"type": "joints", "joints": NAMES}], "data.action", SO101)


@pytest.mark.parametrize("form", ["{}", "{}.pos", "main_{}", "left/{}_pos"])
def test_joints_in_another_order_are_told_whatever_stands_around_their_names(form: str) -> None:
    check_order([form.format(name) for name in NAMES], ACTION, "it")
    check_order([form.format(name) for name in NAMES[:3]], ACTION, "it")
    with pytest.raises(ValueError, match="put its joints in that order"):
        check_order([form.format(name) for name in SWAPPED], ACTION, "it")


def test_a_name_that_is_a_joints_own_is_no_other_joints() -> None:
    robot = replace(SO101, names=("roll", "wrist_roll"))
    space = parse_space([{"type": "joints", "joints": ["roll", "wrist_roll"]}], "data.action", robot)
    with pytest.raises(ValueError, match="put its joints in that order"):
        check_order(["wrist_roll.pos", "roll.pos"], space, "it")


def test_names_that_say_nothing_of_the_joints_are_no_order() -> None:
    check_order(["motor_2", "motor_1", "x"], ACTION, "it")
    check_order([NAMES[0], NAMES[0], NAMES[1]], ACTION, "it")
    both = parse_space([{"type": "joints", "joints": ["gripper"]}], "data.action", SO101)
    check_order(["right_gripper", "left_gripper"], both, "it")


SIZES = {"state": 6, "action": 6}


@pytest.mark.parametrize("relative", [(False,) * 6, (True,) * 4 + (False,) * 2])
def test_a_delta_where_the_checkpoint_has_a_target_is_refused(relative: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match=r"action\[0\] is relative to the observation, and it says that its actions"):
        declare("pi0_relative", SO101, SIZES, relative, "it")


def test_a_delta_is_one_where_the_checkpoint_says_so_or_nothing() -> None:
    arm, space = (True,) * 5 + (False,), declare("pi0_relative", SO101, SIZES, (), "it")
    assert declare("pi0_relative", SO101, SIZES, arm, "it").file.action == space.file.action
    assert declare("so101_degrees", SO101, SIZES, arm, "it").file.action == space.file.action


def stats_of(*own: float, padding: float = 1.0) -> dict[str, np.ndarray]:
    zeros = np.zeros(8 - len(own), np.float32)
    mean, std = np.array([*own, *zeros], np.float32), np.array([*(0.5 for _ in own), *(zeros + padding)], np.float32)
    return {"mean": mean, "std": std, "q01": mean - std, "q99": mean + std}


@pytest.mark.parametrize("padding", [0.0, 1.0])
def test_statistics_are_cut_to_the_spaces_numbers_where_the_rest_is_padding(padding: float) -> None:
    stats = {"state": stats_of(1, 2, 3, padding=padding)}
    checkpoint = OpenPiCheckpoint(Path("it"), {}, "droid", stats)
    np.testing.assert_array_equal(checkpoint.field_stats("state", 3, 2).mean, [[1, 2, 3], [1, 2, 3]])
    assert checkpoint.field_stats("state", 5, 1).mean.shape == (1, 5), "a number that never varied"
    for size, got in ((2, "asset droid has state of 3 numbers, the space 2"), (9, "of 3 numbers, the space 9")):
        with pytest.raises(ValueError, match=got):
            checkpoint.field_stats("state", size, 1)


KINDS = [
    (["params/_METADATA", "assets/droid/norm_stats.json"], "is openpi's JAX checkpoint; convert it"),
    (["_METADATA", "d/0"], "is openpi's JAX checkpoint; convert it"),
    (["29999/params/_METADATA"], "has checkpoints in it; give one of 29999, with its path"),
    (["checkpoints/01/pretrained_model/config.json"], "has checkpoints in it; give one of checkpoints/01, with"),
    (["policy.yaml", "model.safetensors"], "is a policy directory; it needs no import"),
    (["adapter_config.json", "adapter_model.safetensors"], r"holds adapters \(PEFT\) and not the weights"),
]


@pytest.mark.parametrize(("names", "expected"), KINDS)
def test_what_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], expected: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=expected):
        find_source(str(tmp_path))
    monkeypatch.setattr(hub, "look_up", lambda repo, revision: hub.Revision(repo, "commit", tuple(names)))
    with pytest.raises(ValueError, match=expected):  # before anything is downloaded
        find_source("hf:org/repo")


def test_a_gr00t_checkpoint_is_named_by_its_release(tmp_path: Path) -> None:
    (tmp_path / "experiment_cfg").mkdir()
    (tmp_path / "config.json").write_text('{"model_type": "Gr00tN1d7"}')
    with pytest.raises(ValueError, match=r"is a GR00T checkpoint \(Gr00tN1d7\); .*serve it where it runs"):
        find_source(str(tmp_path))
