"""SmolVLA and ACT against what LeRobot recorded of them: every number of every case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vla_ros.policies.act import case as act_case  # noqa: E402
from vla_ros.policies.importing.case import read_lerobot_case  # noqa: E402
from vla_ros.policies.importing.lerobot import read_lerobot  # noqa: E402
from vla_ros.policies.importing.parity import compare_case_dir  # noqa: E402
from vla_ros.policies.smolvla import case as smolvla_case  # noqa: E402

KEPT = Path(__file__).resolve().parents[1] / "data" / "lerobot_parity"
VARIABLE = "VLA_ROS_LEROBOT_CASES"
COMPARE = {"act": act_case.compare_lerobot, "smolvla": smolvla_case.compare_lerobot}
CASES = [
    ("act_chunk", "checkpoint", "case"),
    ("act_chunk", "checkpoint_v03", "case"),
    *(
        ("smolvla_base", checkpoint, case)
        for checkpoint in ("checkpoint", "checkpoint_v03")
        for case in ("case", "case_edge")
    ),
    ("smolvla_cross_only", "checkpoint", "case"),
    ("smolvla_cross_only", "checkpoint", "case_edge"),
]


def find(folder: str, checkpoint: str, case: str) -> Path:
    """The folder in the test data, or in the one that the environment names, which has them all."""
    for place in (KEPT, Path(os.environ.get(VARIABLE, "/nowhere"))):
        if (place / folder / f"{case}.safetensors").is_file() and (place / folder / checkpoint).is_dir():
            return place / folder
    pytest.skip(f"{folder}/{case} of {checkpoint} is too large for this repository; give its folder as {VARIABLE}")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "checkpoint_name", "case_name"), CASES)
def test_every_output_of_a_case_is_reproduced(name: str, checkpoint_name: str, case_name: str, packed: bool) -> None:
    folder = find(name, checkpoint_name, case_name)
    checkpoint = read_lerobot(folder / checkpoint_name)
    case = read_lerobot_case(folder / f"{case_name}.safetensors", read_lerobot(folder / "checkpoint").rename)
    differences = COMPARE[checkpoint.type](checkpoint, case, folder, packed)
    assert {name for name in case.expected if not name.startswith("image_mask")} <= differences.keys()
    assert {name: each for name, each in differences.items() if each.is_beyond} == {}


def test_what_is_allowed_is_what_was_asked_for() -> None:
    """But where LeRobot's own rounding is larger: features that reach 20."""
    allowed = {
        name.removeprefix("checkpoint/case/"): each.allowed
        for folder in ("act_chunk", "smolvla_base")
        for name, each in compare_case_dir(KEPT / folder).items()
    }
    exact = ("state_normalized", "state_padded", "tokens", "token_mask", "image_mask", "prefix_pad_mask")
    assert {allowed[name] for name in (*exact, "prefix_attention_mask", "prefix_position_ids")} == {0.0}
    assert {value for name, value in allowed.items() if name.startswith("image.")} == {5e-7}
    hidden = ("image_features.0", "prefix_keys.3", "t1.suffix_hidden", "t0.5.velocity", "actions_10_steps_normalized")
    assert {allowed[name] for name in (*hidden, "chunks_normalized", "decoder_out")} == {1e-5}
    assert {allowed[name] for name in ("actions_10_steps", "actions_5_steps", "chunks", "selected")} == {2e-4}
