"""Golden replays: another resizing, camera order, joint order or token is called by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compare_helpers import (
    HORIZON,
    OFFSETS,
    SCALES,
    START_NS,
    S,
    differences,
    golden_replay,
    kinds,
    motion,
    origin,
    replay,
    request,
    request_of,
    scene,
    seen_as,
    stored_baseline,
    with_chunks,
)
from PIL import Image

from vla_ros.policies.pi.request import PiRequest
from vla_ros.replay.baseline.fingerprint import fingerprint, rms_difference
from vla_ros.replay.baseline.pairs import INPUT
from vla_ros.replay.baseline.record import Baseline, Tolerances, make_baseline
from vla_ros.replay.records import Replay

FILTER = Image.Resampling


@pytest.fixture(scope="module")
def golden() -> Replay:
    return golden_replay()


@pytest.fixture(scope="module")
def stored(golden: Replay, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """The golden replay, written and read again."""
    return stored_baseline(golden, tmp_path_factory.mktemp("baseline"))


@pytest.mark.parametrize("how", [FILTER.NEAREST, FILTER.BILINEAR, FILTER.LANCZOS, FILTER.BOX])
def test_another_resize_filter_is_named_with_its_camera(golden: Replay, stored: Baseline, how: FILTER) -> None:
    found = differences(seen_as(golden, lambda t: request(t, filters=(FILTER.BICUBIC, how))), stored)
    assert kinds(found) == [INPUT]
    assert "camera 'top': fine detail changed" in found[0].line and "resize filter" in found[0].line
    assert (found[0].bag, found[0].time_ns) == ("monday", START_NS)


def test_swapped_cameras_are_named(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(seen_as(golden, lambda t: request(t, cameras=(1, 0))), stored)
    assert "cameras 'front' and 'top' are swapped" in found.line and found.got == "top, front"


def test_cameras_that_are_swapped_and_resized_otherwise_are_both_named(golden: Replay, stored: Baseline) -> None:
    changed = seen_as(golden, lambda t: request(t, cameras=(1, 0), filters=(FILTER.NEAREST,) * 2))
    lines = [difference.line for difference in differences(changed, stored)]
    assert "are swapped" in lines[0] and "in its wrong place, also differs in detail" in lines[1]


def test_one_camera_twice_is_named(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(seen_as(golden, lambda t: request(t, cameras=(1, 1))), stored)
    assert "camera 'front' shows what camera 'top' should" in found.line


def test_reversed_colours_are_named(golden: Replay, stored: Baseline) -> None:
    def reversed_colours(time_ns: int) -> PiRequest:
        images = [np.asarray(Image.fromarray(scene(k, time_ns)).resize((32, 32), FILTER.BICUBIC)) for k in (0, 1)]
        return request_of(time_ns, np.stack([images[0][..., ::-1], images[1]]), motion(time_ns))

    (found,) = differences(seen_as(golden, reversed_colours), stored)
    assert "camera 'front': colours are reversed" in found.line


def test_a_darker_image_is_no_other_filter(golden: Replay, stored: Baseline) -> None:
    def darker(time_ns: int) -> PiRequest:
        images = [np.asarray(Image.fromarray(scene(k, time_ns)).resize((32, 32), FILTER.BICUBIC)) for k in (0, 1)]
        return request_of(time_ns, np.stack([images[0], (images[1] * 0.95).astype(np.uint8)]), motion(time_ns))

    (found,) = differences(seen_as(golden, darker), stored)
    assert "camera 'top': image changed: brightness" in found.line


def test_a_camera_that_goes_wrong_half_way_is_dated(golden: Replay, stored: Baseline) -> None:
    def late(time_ns: int) -> PiRequest:
        return request(time_ns, filters=(FILTER.NEAREST if time_ns >= START_NS + 5 * S else FILTER.BICUBIC,) * 2)

    found = differences(seen_as(golden, late), stored)
    assert [difference.time_ns for difference in found] == [START_NS + 5 * S] * 2


@pytest.mark.parametrize("is_before", [True, False])
def test_another_joint_order_is_named_before_normalisation_or_after(
    golden: Replay, stored: Baseline, is_before: bool
) -> None:
    order = [1, 0, 2]

    def permuted(time_ns: int) -> PiRequest:
        if is_before:
            return request(time_ns, joints=motion(time_ns)[order])
        given = request(time_ns)
        return replace(given, state=given.state[:, order])

    (found,) = differences(seen_as(golden, permuted), stored)
    assert found.kind == INPUT and "joint order of the state changed" in found.line
    assert (found.got, found.expected, found.joint) == ("elbow, base", "base, elbow", "base")


def test_a_joint_order_is_told_although_values_are_clamped() -> None:
    def clamped(joints: np.ndarray, time_ns: int) -> PiRequest:
        given = request(time_ns, joints=joints)
        return replace(given, state=given.state.clip(-1.5, 1.5))

    bag = seen_as(replay(), lambda t: clamped(motion(t), t))
    baseline = make_baseline([bag], origin())
    found = differences(seen_as(bag, lambda t: clamped(motion(t)[[2, 1, 0]], t)), baseline)
    assert "gripper, base" in found[0].line and "joint order" in found[0].line


def test_other_statistics_are_no_other_joint_order(golden: Replay, stored: Baseline) -> None:
    joints = np.array([0.0, 0.3, 0.0])
    (found,) = differences(seen_as(golden, lambda t: request(t, joints=motion(t) * (1, 1.2, 1) + joints)), stored)
    assert found.joint == "elbow" and "normalised otherwise" in found.line


def test_a_state_that_is_something_else_says_so(golden: Replay, stored: Baseline) -> None:
    noise = np.random.default_rng(0)
    changed = seen_as(golden, lambda t: request(t, joints=motion(t) + np.array([0, 0, 0.1 * noise.normal()])))
    (found,) = differences(changed, stored)
    assert "the state changed" in found.line and found.joint == "gripper"
    assert isinstance(found.got, float) and found.tolerance == Tolerances().state


def test_another_joint_order_of_the_actions_is_named(golden: Replay, stored: Baseline) -> None:
    swapped = with_chunks(golden, lambda c: replace(c, positions=c.positions[:, [1, 0, 2]]))
    (found,) = differences(swapped, stored)
    assert "joint order of the actions changed: 'base' moves as 'elbow' did, 'elbow' moves as 'base' did" in found.line


@pytest.mark.parametrize(
    "change, said",
    [
        ({"input_ids": np.array([0, 0, 7, 8, 10, 4])}, "the prompt's tokens changed"),
        ({"position_ids": np.arange(1, 9)[None]}, "padding, attention mask or position ids changed"),
        ({"image_grid": ((1, 8, 2), (1, 4, 4))}, "another size"),
    ],
)
def test_tokens_layout_and_sizes_are_named(golden: Replay, stored: Baseline, change: dict[str, Any], said: str) -> None:
    def changed(time_ns: int) -> PiRequest:
        given = request(time_ns)
        return replace(given, policy_input=replace(given.policy_input, **change))

    (found,) = differences(seen_as(golden, changed), stored)
    assert said in found.line


def test_other_noise_is_named(golden: Replay, stored: Baseline) -> None:
    noise = np.zeros((HORIZON, 3), np.float32)
    (found,) = differences(seen_as(golden, lambda t: replace(request(t), noise=noise)), stored)
    assert "the noise changed" in found.line


def test_a_sketch_tells_how_far_images_are_apart() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(20, 230, (2, 32, 32, 3)).astype(np.uint8)
    for size in (1, 10):
        noise = rng.normal(scale=size, size=image.shape)
        other = np.clip(image + np.rint(noise), 0, 255).astype(np.uint8)
        prints = [fingerprint(request_of(START_NS, x, np.zeros(3))) for x in (image, other)]
        true_rms = np.sqrt(((image.astype(float) - other) ** 2).mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(rms_difference(prints[0].sketch, prints[1].sketch), true_rms, rtol=0.4)


def test_pixels_that_come_ready_are_measured_in_levels_too() -> None:
    given = request(START_NS)
    ready = given.policy_input.pixel_values.astype(np.float32) / 127.5 - 1.0
    darker = (given.policy_input.pixel_values.astype(np.float32) - 4) / 127.5 - 1.0
    prints = [
        fingerprint(replace(given, policy_input=replace(given.policy_input, pixel_values=pixels)))
        for pixels in (ready, darker)
    ]
    np.testing.assert_allclose(prints[0].coarse - prints[1].coarse, 4.0, atol=1e-3)


def test_the_states_of_these_tests_are_those_of_the_joints() -> None:
    """Else the tests of the joint order would show nothing."""
    state = fingerprint(request(START_NS)).state
    np.testing.assert_allclose(state, (motion(START_NS) - OFFSETS) / SCALES, rtol=1e-6)
