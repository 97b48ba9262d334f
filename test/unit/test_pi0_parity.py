"""pi0 and pi0.5 against what LeRobot and openpi recorded of them: every number of every case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vla_ros.policies.importing.case import read_lerobot_case  # noqa: E402
from vla_ros.policies.importing.difference import Difference  # noqa: E402
from vla_ros.policies.importing.lerobot import read_lerobot  # noqa: E402
from vla_ros.policies.importing.openpi import read_openpi  # noqa: E402
from vla_ros.policies.importing.parity import compare_case_dir  # noqa: E402
from vla_ros.policies.pi0.case import ACTIONS, EXACT, HIDDEN, PIXELS, compare_lerobot, compare_openpi  # noqa: E402

KEPT = Path(__file__).resolve().parents[1] / "data" / "lerobot_parity"
VARIABLE = "VLA_ROS_LEROBOT_CASES"
LEROBOT = [
    (name, case) for name in ("pi0_empty_camera", "pi05_quantiles") for case in ("case", "case_edge", "case_v04")
]


def case_file(folder: str, case: str) -> Path:
    """From the test data, or from the folder that the environment names, which has them all."""
    for place in (KEPT, Path(os.environ.get(VARIABLE, "/nowhere"))):
        if (place / folder / f"{case}.safetensors").is_file():
            return place / folder / f"{case}.safetensors"
    pytest.skip(f"{folder}/{case}.safetensors is too large for this repository; give its folder as {VARIABLE}")


def check(differences: dict[str, Difference], expected: set[str]) -> None:
    assert {name for name in expected if not name.startswith("image_mask")} <= differences.keys()
    assert {name: each for name, each in differences.items() if each.is_beyond} == {}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("folder", "name"), LEROBOT)
def test_every_output_of_a_lerobot_case_is_reproduced(folder: str, name: str, packed: bool) -> None:
    path = case_file(folder, name)
    checkpoint = read_lerobot(path.parent / "checkpoint")
    case = read_lerobot_case(path, checkpoint.rename)
    check(compare_lerobot(checkpoint, case, path.parent, packed), set(case.expected))


@pytest.mark.parametrize("packed", [False, True])
def test_every_output_of_the_openpi_case_is_reproduced(packed: bool) -> None:
    path = case_file("openpi_pi0", "case")
    case = read_lerobot_case(path, {})
    check(compare_openpi(read_openpi(path.parent / "checkpoint", None), case, path.parent, packed), set(case.expected))


def test_what_is_allowed_is_what_was_asked_for() -> None:
    found = compare_case_dir(KEPT / "pi05_quantiles")
    allowed = {name.removeprefix("checkpoint/case_edge/"): each.allowed for name, each in found.items()}
    exact = ("state_normalized", "tokens", "token_mask", "image_mask", "prefix_pad_mask", "prefix_position_ids")
    assert (PIXELS, HIDDEN, ACTIONS) == (5e-7, 1e-5, 2e-4)
    assert {allowed[name] for name in exact} == {EXACT}
    assert allowed["image.0"] == PIXELS and allowed["t0.5.velocity"] == HIDDEN
    assert allowed["actions_10_steps"] == allowed["actions_5_steps"] == ACTIONS
