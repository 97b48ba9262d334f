"""A policy directory in another space: its declaration changes, its statistics with it, and the motion stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vla_ros.cli import main
from vla_ros.policies.directory import infer, load_policy
from vla_ros.policies.files import WEIGHTS_FILE, hash_file, open_policy
from vla_ros.policies.respace import respace
from vla_ros.robot import load_robot
from vla_ros.share import policy_dir, share_path

ROBOT = load_robot(share_path("config/robots/tabletop.yaml"))
TINY = policy_dir("tiny_touch")
ALL = {"type": "joints", "joints": list(ROBOT.joint_names)}
DEGREES = {
    "state": (ALL | {"unit": "deg"},),
    "action": (ALL | {"unit": "deg", "reference": "observation"},),
}


def test_the_demos_policy_in_degrees_commands_the_same(tmp_path: Path) -> None:
    made = respace(TINY, tmp_path / "degrees", DEGREES, ROBOT)
    assert hash_file(tmp_path / "degrees" / WEIGHTS_FILE) == hash_file(TINY / WEIGHTS_FILE)
    radians, degrees = load_policy(TINY, "cpu"), load_policy(tmp_path / "degrees", "cpu")
    assert made.digest == degrees.digest != radians.digest and not degrees.notes
    before, after = radians.processor.stats["action"], degrees.processor.stats["action"]
    np.testing.assert_allclose(after.mean, np.rad2deg(before.mean), rtol=1e-5, atol=1e-9)
    rng, seen = np.random.default_rng(0), open_policy(TINY).golden.observation
    for stamp_ns in range(3):
        joints = seen.joint_positions + rng.normal(0, 0.1, 6)
        observation = replace(seen, joint_positions=joints, headers_ns=dict.fromkeys(seen.images, stamp_ns))
        targets = []
        for loaded in (radians, degrees):
            actions = infer(loaded.policy, loaded.processor.process(observation), torch.device("cpu"))
            targets.append(loaded.processor.decode(actions, observation).positions)
        np.testing.assert_allclose(targets[1], targets[0], rtol=0, atol=1e-6)


def test_the_command_makes_it_of_a_space_file_and_refuses_a_folder_that_is_not_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, out = tmp_path / "degrees.yaml", tmp_path / "degrees"
    space.write_text(yaml.safe_dump({name: list(entries) for name, entries in DEGREES.items()}))
    arguments = ["respace", "tiny_touch", str(out), "--space", str(space)]
    assert main(arguments) == 0
    assert f"digest {open_policy(out).processor.digest}" in capsys.readouterr().out
    assert main(arguments) == 2
    assert (
        capsys.readouterr().err
        == f"vla_ros respace: {out} exists and is not empty; give OUT another name, or move it away\n"
    )
    assert main([*arguments[:2], str(tmp_path / "other"), "--space", "aloha"]) == 2
    assert "joint is 'left_waist'" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([ALL | {"unit": "deg", "sign": -1, "reference": "observation"}], "number 0 is no positive multiple of what"),
        ([ALL | {"reference": "previous"}], "number 0 is no positive multiple of what it was"),
        ([ALL | {"joints": ALL["joints"][::-1], "reference": "observation"}], "number 0 is no positive multiple"),
        ([ALL | {"joints": ALL["joints"][:5]}], "data.action makes 5 numbers, the policy has 6; make them equal"),
    ],
)
def test_numbers_that_the_network_does_not_know_are_refused(action: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        respace(TINY, tmp_path / "other", {"action": tuple(action)}, ROBOT)
    assert not (tmp_path / "other").exists()
