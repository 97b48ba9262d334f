"""The images of a policy: which of the robot's cameras they are of, each in its own size, and what stands for none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from policy_helpers import CAMERAS, HORIZON, JOINTS, TASKS, observation, pi_config, policy_processor, processor_config

from vla_ros.policies.config import DataConfig
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.strict import parse_config
from vla_ros.training.samples import SampleMaker
from vla_ros.transforms.images import resize_with_padding
from vla_ros.types import Observation

FRONT, TOP = ({"key": f"image_{name}", "camera": name} for name in CAMERAS)
EMPTY = {"key": "third"}


def data_with(*cameras: dict[str, Any]) -> DataConfig:
    document = {"joint_names": list(JOINTS), "action_horizon": HORIZON, "chunk_dt_s": 0.1, "cameras": list(cameras)}
    return parse_config(DataConfig, document, "data")


def processor_with(*cameras: dict[str, Any], **sizes: Any) -> PiProcessor:
    plain = policy_processor(pi_config())
    images = processor_config(**sizes)
    return PiProcessor(plain.config, data_with(*cameras), images, plain.tokenizer, plain.stats)


def pixels(processor: PiProcessor, seen: Observation) -> np.ndarray:
    return processor.process(seen).policy_input.pixel_values


def test_slots_are_the_policys_images_in_its_order() -> None:
    seen, listed = observation(), policy_processor(pi_config())
    straight, swapped = processor_with(FRONT, TOP), processor_with(TOP, FRONT)
    assert swapped.camera_names == ("top", "front")
    np.testing.assert_array_equal(pixels(straight, seen), pixels(listed, seen))
    np.testing.assert_array_equal(pixels(swapped, seen).reshape(2, -1), pixels(straight, seen).reshape(2, -1)[::-1])


def test_a_slot_without_a_camera_is_black_or_not_there_at_all() -> None:
    seen = observation()
    black = processor_with(FRONT, EMPTY | {"missing": "zeros"}, TOP)
    masked = processor_with(FRONT, EMPTY | {"missing": "mask"}, TOP)
    assert black.camera_names == masked.camera_names == CAMERAS
    first, empty, last = pixels(black, seen).reshape(3, -1)
    assert empty.max() == 0
    np.testing.assert_array_equal(pixels(masked, seen).reshape(2, -1), [first, last])


def test_training_sees_black_where_the_robot_will() -> None:
    slots = (EMPTY | {"missing": "zeros"}, FRONT, TOP)
    views = np.random.default_rng(0).integers(1, 256, (3, 2, 16, 16, 3), dtype=np.uint8)
    maker = SampleMaker.__new__(SampleMaker)
    maker._frames = SimpleNamespace(images=views)  # type: ignore[assignment]
    maker._processor = SimpleNamespace(data=data_with(*slots))  # type: ignore[assignment]
    filled = maker._views(np.array([2, 0]))
    assert filled[:, 0].max() == 0
    np.testing.assert_array_equal(filled[:, 1:], views[[2, 0]])


def test_each_camera_may_have_its_own_size() -> None:
    rng = np.random.default_rng(0)
    sizes = dict(zip(CAMERAS, ((48, 64), (90, 50)), strict=True))
    images = {name: rng.integers(0, 256, (*size, 3), np.uint8) for name, size in sizes.items()}
    seen = replace(observation(), images=images)
    any_size = processor_with(FRONT, TOP, camera_height=0, camera_width=0)
    assert pixels(any_size, seen).shape == pixels(processor_with(FRONT, TOP), observation()).shape
    with pytest.raises(ValueError, match=r"image is uint8 \[48, 64, 3\]; expected uint8 \[24, 32, 3\]"):
        processor_with(FRONT, TOP).process(seen)
    with pytest.raises(ValueError, match="expected both above 0, or both 0"):
        processor_config(camera_height=0)


def test_padding_keeps_an_images_shape_in_the_middle() -> None:
    wide = np.full((20, 40, 3), 200, np.uint8)
    padded = resize_with_padding(wide, 16, 16, Image.Resampling.BICUBIC)
    assert padded.shape == (16, 16, 3)
    assert (padded[4:12] == 200).all() and padded[:4].max() == padded[12:].max() == 0
    processor = processor_with(FRONT, TOP, padding=True)
    seen = replace(observation(), images=dict.fromkeys(CAMERAS, np.full((24, 32, 3), 200, np.uint8)))
    assert pixels(processor, seen).min() == 0 < pixels(processor_with(FRONT, TOP), seen).min()


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (
            [FRONT, EMPTY],
            "data.cameras: slot 'third' has no camera; expected a camera of the robot file, or missing: zeros",
        ),
        (
            [FRONT, EMPTY | {"missing": "black"}],
            "camera slot 'third': missing is 'black'; expected one of refuse, zeros",
        ),
    ],
)
def test_a_missing_camera_is_refused_in_one_line(cameras: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        processor_with(*cameras)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_cameras_are_said_once_and_an_action_horizon_always() -> None:
    document = {"joint_names": list(JOINTS), "cameras": [FRONT], "chunk_dt_s": 0.1}
    with pytest.raises(ValueError, match="data: key 'action_horizon' is missing"):
        parse_config(DataConfig, document, "data")
    with pytest.raises(ValueError, match="data.cameras stands beside data.camera_names"):
        parse_config(DataConfig, document | {"action_horizon": 4, "camera_names": ["front"]}, "data")


def test_a_task_and_the_robots_other_cameras_are_no_concern_of_a_slot() -> None:
    seen = observation(TASKS[1])
    more = replace(seen, images={**seen.images, "side": np.zeros((3, 3, 3), np.uint8)})
    np.testing.assert_array_equal(pixels(processor_with(FRONT), more), pixels(processor_with(FRONT), seen))
