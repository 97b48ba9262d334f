"""What the numbers of a state and an action mean: declared, turned into joint targets and back, or refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from policy_helpers import CAMERAS, HORIZON, JOINTS, observation, pi_config, policy_processor

from vla_ros.policies.config import DataConfig
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.robot import CameraConfig, JointConfig, OutputConfig, RobotConfig
from vla_ros.spaces.components import REFERENCES, RobotJoints
from vla_ros.spaces.space import Space, parse_space
from vla_ros.strict import parse_config
from vla_ros.training.dataset import Frames
from vla_ros.training.pictures import HeldPictures
from vla_ros.training.samples import SampleMaker, Split, compute_split_stats
from vla_ros.transforms.normalize import compute_stats
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Continuation
from vla_ros.units import SI_PER_UNIT

ROBOT = RobotJoints(
    ("a", "b", "c", "d"), {"a": (-1.0, 2.0), "b": (0.0, 0.8), "c": (-3.0, 3.0), "d": (0.1, 0.2)}, chunk_dt_s=0.1
)
NUM_SPACES = 200


def action_space(*components: dict[str, Any]) -> Space:
    return parse_space(components, "data.action", ROBOT)


def random_components(rng: np.random.Generator, references: tuple[str, ...] = REFERENCES) -> list[dict[str, Any]]:
    """Components that take some of the robot's joints in some order, in any unit, range, sign and reference."""
    names = rng.permutation(ROBOT.names)[: rng.integers(1, 5)].tolist()
    components: list[dict[str, Any]] = []
    while names:
        num = rng.integers(1, len(names) + 1)
        taken, names = names[:num], names[num:]
        named = {"type": "joint", "joint": taken[0]} if num == 1 else {"type": "joints", "joints": taken}
        if rng.random() < 0.4:
            meaning: dict[str, Any] = {"range": rng.permutation([rng.uniform(-100, 0), rng.uniform(1, 100)]).tolist()}
        else:
            unit, sign = str(rng.choice(list(SI_PER_UNIT))), int(rng.choice([-1, 1]))
            meaning = {"unit": unit, "sign": sign, "offset": rng.uniform(-10, 10)}
        components.append(named | meaning | {"reference": str(rng.choice(references))})
        if rng.random() < 0.3:
            components.append({"type": "constant", "size": int(rng.integers(1, 4)), "value": rng.uniform(-1, 1)})
    return components


@pytest.mark.parametrize("seed", range(NUM_SPACES))
def test_decoding_undoes_encoding_and_a_joint_that_is_not_moved_is_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = action_space(*random_components(rng))
    batch = (3,) if seed % 2 else ()
    targets, measured = rng.uniform(-2, 2, (*batch, 7, 4)), rng.uniform(-2, 2, (*batch, 4))
    vectors = space.encode(targets, measured)
    assert vectors.shape == (*batch, 7, space.size)
    held = [name not in space.joint_names for name in ROBOT.names]
    expected = np.where(held, measured[..., None, :], targets)
    np.testing.assert_allclose(space.decode(vectors, measured), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(NUM_SPACES))
def test_encoding_undoes_decoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    components = [entry for entry in random_components(rng) if entry["type"] != "constant"]
    space = action_space(*components)
    vectors, measured = rng.uniform(-100, 100, (7, space.size)), rng.uniform(-2, 2, 4)
    encoded = space.encode(space.decode(vectors, measured), measured)
    np.testing.assert_allclose(encoded, vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_a_directory_that_declares_nothing_means_what_it_always_meant_bit_for_bit(mode: str) -> None:
    rng = np.random.default_rng(0)
    data = DataConfig(JOINTS, CAMERAS, HORIZON, 0.1, action_mode=mode)
    targets, joints = rng.normal(size=(5, HORIZON, 3)), rng.normal(size=(5, 3))
    labels = targets - joints[:, None] if mode == "relative" else targets
    decoded = labels + joints[:, None] if mode == "relative" else labels
    assert data.action_space.encode(targets, joints).tobytes() == labels.tobytes()
    assert data.action_space.decode(labels, joints).tobytes() == decoded.tobytes()
    assert data.state_space.encode(joints[:, None], joints).tobytes() == joints.tobytes()


def one_joint(**keys: Any) -> Space:
    return action_space({"type": "joint", "joint": "b"} | keys)


@pytest.mark.parametrize(
    ("keys", "position", "number"),
    [
        ({}, 0.5, 0.5),
        ({"unit": "deg"}, np.pi / 2, 90.0),
        ({"unit": "mm"}, 0.25, 250.0),
        ({"sign": -1}, 0.5, -0.5),
        ({"unit": "deg", "sign": -1, "offset": 10}, np.pi / 2, -80.0),
        ({"range": [0, 100]}, 0.8, 100.0),
        ({"range": [1, 0]}, 0.2, 0.75),
        ({"range": [-100, 100]}, 0.4, 0.0),
    ],
)
def test_a_position_becomes_the_number_that_is_declared(keys: dict, position: float, number: float) -> None:
    targets = np.array([[0.0, position, 0.0, 0.0]])
    np.testing.assert_allclose(one_joint(**keys).encode(targets, np.zeros(4)), [[number]], atol=1e-12)


def test_an_action_is_added_to_the_measured_value_or_to_the_action_before() -> None:
    measured, vectors = np.array([0.0, 0.5, 0.0, 0.0]), np.full((3, 1), 90.0)
    quarter = np.pi / 2
    from_observation = one_joint(unit="deg", reference="observation").decode(vectors, measured)[:, 1]
    from_previous = one_joint(unit="deg", reference="previous").decode(vectors, measured)[:, 1]
    np.testing.assert_allclose(from_observation, [0.5 + quarter] * 3)
    np.testing.assert_allclose(from_previous, [0.5 + quarter, 0.5 + 2 * quarter, 0.5 + 3 * quarter])


def test_an_offset_does_not_shift_what_is_relative() -> None:
    held = one_joint(offset=5.0, reference="observation").decode(np.zeros((2, 1)), np.full(4, 0.3))
    np.testing.assert_allclose(held, 0.3)


def test_padding_goes_in_as_its_value_and_is_dropped_on_the_way_out() -> None:
    space = action_space({"type": "joint", "joint": "c"}, {"type": "constant", "size": 2, "value": 7})
    np.testing.assert_array_equal(space.encode(np.full((1, 4), 3.0), np.zeros(4)), [[3.0, 7.0, 7.0]])
    np.testing.assert_array_equal(space.decode(np.array([[3.0, -1.0, 9.0]]), np.zeros(4)), [[0.0, 0.0, 3.0, 0.0]])


JOINT = {"type": "joint", "joint": "base"}


@pytest.mark.parametrize(
    ("state", "action", "message"),
    [
        (None, [{"type": "jont"}], "data.action[0]: type is 'jont'; expected one of joint, joints, joint_velocity"),
        (None, [{"joint": "base"}], "data.action[0]: type is None; expected one of"),
        (None, [JOINT, {"type": "joint"}], "data.action[1]: joint: key 'joint' is missing"),
        (None, [{"type": "joints", "joints": []}], "data.action[0]: joints is empty"),
        (None, [{"type": "joint", "joint": "hip"}], "data.action: joint is 'hip'; expected one of base, elbow, grip"),
        (None, [{"type": "joint", "joint": "a" * 5000}], f"data.action: joint is '{'a' * 80}…'; expected one of base"),
        (None, [JOINT, JOINT], "data.action: joint 'base' is named twice"),
        (None, [{"type": "constant"}], "data.action moves no joint"),
        (None, [JOINT | {"unit": "degree"}], "data.action[0]: unit is 'degree'; expected one of rad, deg, m, mm"),
        (None, [JOINT | {"sign": 2}], "data.action[0]: sign is 2.0; expected one of 1, -1"),
        (None, [JOINT | {"range": [1]}], "data.action[0]: range is [1.0]; expected two numbers that differ"),
        (None, [JOINT | {"range": [3, 3]}], "data.action[0]: range is [3.0, 3.0]"),
        (None, [JOINT | {"range": [0, 1], "sign": -1}], "data.action[0]: range stands beside unit, sign or offset"),
        (None, [JOINT | {"reference": "delta"}], "data.action[0]: reference is 'delta'; expected one of absolute"),
        (None, [JOINT | {"scale": 1.0}], "data.action[0]: joint: unknown key 'scale'"),
        (None, [{"type": "constant", "size": 0}], "data.action[0]: size is 0; expected at least 1"),
        ([], None, "data.state is empty; expected at least one component"),
        ([JOINT | {"reference": "previous"}], None, "data.state[0]: reference is 'previous'; expected absolute in a"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused_in_one_line(state: Any, action: Any, message: str) -> None:
    document = {"joint_names": ["base", "elbow", "grip"], "camera_names": [], "action_horizon": 4, "chunk_dt_s": 0.1}
    with pytest.raises(ValueError) as refused:
        parse_config(DataConfig, document | {"state": state, "action": action}, "data")
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_what_actions_are_relative_to_is_said_once() -> None:
    with pytest.raises(ValueError, match="action_mode is 'relative' beside data.action; remove it"):
        DataConfig(
            JOINTS, CAMERAS, HORIZON, 0.1, action_mode="relative", action=({"type": "joints", "joints": JOINTS},)
        )


@pytest.mark.parametrize("limits", [[2, 1], [-np.inf, np.inf], [0, np.nan], ["0", "1"]])
def test_limits_that_are_not_a_pair_are_refused_by_joint(limits: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"data.joint_limits.a is \[.*\]; expected its lower and upper limit"):
        DataConfig(JOINTS, CAMERAS, HORIZON, 0.1, joint_limits={"a": limits})


HAND, ARM = JOINTS[-1], JOINTS[:-1]
ARM_PART = {"type": "joints", "joints": list(ARM), "unit": "deg", "reference": "observation"}
HAND_PART = {"type": "joint", "joint": HAND, "range": [0, 100]}


def robot_with(limit: float) -> RobotConfig:
    """A robot of these joints, each from minus ``limit`` to ``limit``."""
    joints = tuple(JointConfig(name, -limit, limit, max_velocity=2.0, max_acceleration=8.0) for name in JOINTS)
    camera = CameraConfig("front", "image", width=32, height=24, max_age_s=1.0)
    return RobotConfig("arm", 50.0, joints, (camera,), (OutputConfig("arm", JOINTS),))


def declared_processor(**changes: Any) -> PiProcessor:
    """Actions of arm, hand and a number of padding; a state of the hand alone."""
    rng = np.random.default_rng(1)
    plain = policy_processor(pi_config())
    data = DataConfig(
        JOINTS,
        CAMERAS,
        HORIZON,
        chunk_dt_s=0.1,
        state=(HAND_PART,),
        action=(ARM_PART, HAND_PART, {"type": "constant"}),
        joint_limits={HAND: [-1.0, 1.0]},
    )
    return PiProcessor(
        config=replace(plain.config, action_dim=4, state_dim=1),
        data=replace(data, **changes),
        settings=plain.settings,
        tokenizer=plain.tokenizer,
        stats={
            "state": compute_stats(rng.uniform(0, 100, (50, 1, 1))),
            "action": compute_stats(rng.uniform(-100, 100, (50, HORIZON, 4))),
        },
    )


def test_a_chunk_continues_the_one_before_it_in_the_numbers_of_the_policy() -> None:
    processor, seen = declared_processor(), observation()
    targets = seen.joint_positions + np.linspace(0.0, 0.2, HORIZON)[:, None]
    request = processor.process(seen, Continuation(targets, num_frozen=1))
    plain = processor.process(seen)
    assert request.state.shape == (1, 1) and plain.noise.shape == (HORIZON, 4)
    guided = processor.guide(plain, seen, targets, np.ones(HORIZON))
    assert guided.previous_actions is not None
    np.testing.assert_allclose(processor.decode(guided.previous_actions, seen).positions, targets, atol=1e-6)


def test_a_range_is_that_of_the_robot_that_is_driven() -> None:
    processor, seen = declared_processor(), observation()
    actions = np.zeros((HORIZON, 4), np.float32)
    recorded = processor.decode(actions, seen).positions
    processor.bind(robot_with(2.0))
    driven = processor.decode(actions, seen).positions
    np.testing.assert_allclose(driven[:, -1], 2.0 * recorded[:, -1])
    np.testing.assert_array_equal(driven[:, :-1], recorded[:, :-1])


def test_a_directory_keeps_the_limits_that_it_depends_on_and_no_others() -> None:
    data = DataConfig(JOINTS, CAMERAS, HORIZON, 0.1, action=(ARM_PART, HAND_PART))
    assert data.bind(robot_with(1.0)).joint_limits == {HAND: [-1.0, 1.0]}
    assert DataConfig(JOINTS, CAMERAS, HORIZON, 0.1).bind(robot_with(1.0)).joint_limits == {}


def test_a_space_that_does_not_fit_the_network_is_refused_by_both_sizes() -> None:
    with pytest.raises(ValueError, match="policy.action_dim is 4, data.action makes 3 numbers; make them equal"):
        declared_processor(action=(ARM_PART, HAND_PART))
    with pytest.raises(ValueError, match="policy.state_dim is 1, data.state makes 2 numbers; make them equal"):
        declared_processor(state=(ARM_PART | {"reference": "absolute"},))


def test_a_range_without_limits_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(ValueError, match=f"data.action: '{HAND}' lacks its limits; add them to data.joint_limits"):
        declared_processor(joint_limits={})


def test_training_labels_are_in_the_policys_numbers_and_its_errors_in_the_robots() -> None:
    rng = np.random.default_rng(3)
    data = DataConfig(JOINTS, CAMERAS, HORIZON, 0.1, action=(ARM_PART, HAND_PART)).bind(robot_with(1.0))
    joints, targets = rng.uniform(-1, 1, (6, len(JOINTS))), rng.uniform(-1, 1, (6, HORIZON, len(JOINTS)))
    frames = Frames(
        images=HeldPictures(np.zeros((6, len(CAMERAS), 4, 4, 3), np.uint8)),
        joint_positions=joints,
        actions=targets,
        num_known=np.full(6, HORIZON),
        episode=np.zeros(6, np.int64),
        driver=np.array([""] * 6),
        is_intervention=np.zeros(6, bool),
        weight=np.ones(6),
        tasks=("reach",),
        texts=(TextTarget(),) * 6,
        scenes=({},),
    )
    everything = np.arange(6)
    stats = compute_split_stats(frames, Split(everything, everything), data)
    samples = SampleMaker(frames, SimpleNamespace(data=data, stats=stats))  # type: ignore[arg-type]
    labels = data.action_space.encode(targets, joints)
    assert np.abs(labels).max() > 10.0, "degrees and per cent"
    np.testing.assert_allclose(samples.stats["action"].mean, labels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(samples.errors(labels, everything), 0.0, atol=1e-9)
    off = labels + np.array([*[np.rad2deg(0.1)] * len(ARM), 5.0])
    np.testing.assert_allclose(samples.errors(off, everything), 0.1, atol=1e-9)
