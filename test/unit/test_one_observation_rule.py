"""The live node, a replay and training make the same observations of one stream of messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_helpers import COMMAND_TOPIC, START_NS, Said, swing_policy, task, trajectory, write_bag
from runtime_helpers import APART, CHUNK_DT_S, HORIZON, MS, PERIOD_NS, ROBOT, S, frame, joints

from vla_ros.bags.definitions import message_type
from vla_ros.bags.read import BagReader
from vla_ros.observing.observe import NoObservation, Observer, observe
from vla_ros.recordings.events import Task
from vla_ros.recordings.feed import Feed
from vla_ros.replay.run import replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import JointStateConfig
from vla_ros.runtime.handoff import Mode
from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.training.dataset import LoadedBags, load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.types import ActionChunk, Frame, JointSample, Observation

SECONDS = 3.0
AT_ONCE = ReplaySettings(latency_ms=0.0)
RULE = FrameRule(horizon=1, chunk_dt_s=0.02, offset=1.0, resize=lambda image: image)


@dataclass(frozen=True)
class Source:
    """Samples at ``rate_hz`` from ``start_s`` on, each ``lag_s`` under way; both vary by a normal ``jitter_s``."""

    rate_hz: float
    start_s: float = 0.0
    lag_s: float = 0.0
    jitter_s: float = 0.0
    drop_share: float = 0.0

    def times_ns(self, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
        """When each sample was taken, and when it came."""
        for time_s in np.arange(self.start_s, SECONDS, 1 / self.rate_hz):
            jitter_s, delay_s = rng.normal(0.0, self.jitter_s, 2)
            taken_ns = START_NS + S + round((time_s + jitter_s) * S)
            if rng.random() >= self.drop_share:
                yield taken_ns, taken_ns + round(max(0.0, self.lag_s + delay_s) * S)


@dataclass(frozen=True)
class Seen:
    """What an observation was made of: the stamp of each camera's image, and the joints."""

    stamps_ns: tuple[int, ...]
    joint_positions: tuple[float, ...]


def seen(observation: Observation) -> Seen:
    stamps_ns = tuple(written(image) for image in observation.images.values())
    assert stamps_ns == tuple(observation.headers_ns.values()) and observation.stamp_ns == min(stamps_ns)
    return Seen(stamps_ns, tuple(observation.joint_positions))


def written(image: np.ndarray) -> int:
    """The stamp that an image's pixels say."""
    return int(np.frombuffer(image.tobytes()[:8], np.int64)[0])


def header(stamp_ns: int) -> Any:
    return message_type("std_msgs/msg/Header")(message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, S)), "")


def stream(cameras: dict[str, Source], states: Source, seed: int = 0, robot: RobotConfig = ROBOT) -> list[Said]:
    """An instruction, joint states of each source that began before, and images whose pixels say when they were
    taken."""
    rng = np.random.default_rng(seed)
    image, state = message_type("sensor_msgs/msg/Image"), message_type("sensor_msgs/msg/JointState")
    said = [task()]
    for source in robot.joint_sources:
        names, rest = list(source.message_names), np.zeros(len(source.joints))
        for taken_ns, came_ns in replace(states, start_s=-0.5).times_ns(rng):
            positions = rng.uniform(-0.1, 0.1, len(names))
            msg = state(header(taken_ns), names, positions, rest, np.zeros(0))
            said.append(Said(f"/{source.topic}", came_ns, msg))
    for name, source in cameras.items():
        for taken_ns, came_ns in source.times_ns(rng):
            pixels = np.frombuffer(np.int64(taken_ns).tobytes() + bytes(28), np.uint8)
            said.append(Said(f"/{name}/image", came_ns, image(header(taken_ns), 3, 4, "rgb8", 0, 12, pixels)))
    return said


def robot_with(cameras: dict[str, Source], **changes: Any) -> RobotConfig:
    wrist = ROBOT.cameras[1]
    return replace(
        ROBOT, cameras=tuple(replace(wrist, name=name, topic=f"{name}/image") for name in cameras), **changes
    )


def seen_live(path: Path, robot: RobotConfig) -> list[Seen]:
    """By the control loop of the policy node, whose model answers at once."""
    loop, made, next_tick_ns = ControlLoop(robot, LoopSettings(50.0)), [], START_NS
    for event in Feed(BagReader(path), robot):
        now_ns = event.received_ns
        while next_tick_ns < now_ns:
            loop.tick(next_tick_ns)
            next_tick_ns += PERIOD_NS
        match event.said:
            case JointSample() as sample:
                loop.sensors.joints.add(sample)
            case Task(text):
                loop.sensors.task = text
            case Frame() as frame:
                loop.sensors.cameras[frame.camera].add(frame)
        if loop.mode is not Mode.POLICY:
            loop.engage(now_ns)
        observation = loop.begin_request(now_ns) if isinstance(event.said, Frame) else None
        if observation is not None:
            made.append(seen(observation))
            loop.accept(ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, np.zeros((HORIZON, 2))), now_ns)
    return made


def seen_in_replay(path: Path, robot: RobotConfig) -> list[Seen]:
    policy = swing_policy(cameras=robot.camera_names, infer=lambda request: np.zeros((HORIZON, 2)))
    replay_bag(path, robot, policy, AT_ONCE)
    return [seen(observation) for observation in policy.processor.asked]


def load(path: Path, said: list[Said], robot: RobotConfig) -> LoadedBags:
    times_ns = range(START_NS, max(item.time_ns for item in said) + S, 100 * MS)
    commands = [Said(COMMAND_TOPIC, at_ns, trajectory(0, [PERIOD_NS], [np.zeros(2)])) for at_ns in times_ns]
    return load_bags([write_bag(path, said, commands)], robot, RULE)


def seen_in_training(loaded: LoadedBags) -> list[Seen]:
    frames = loaded.frames
    return [
        Seen(tuple(map(written, images)), tuple(positions))
        for images, positions in zip(frames.images, frames.joint_positions, strict=True)
    ]


ONE_TOPIC = tuple(JointStateConfig(joints=(name,)) for name in ROBOT.joint_names)


def random_stream(seed: int) -> tuple[list[Said], RobotConfig]:
    rng = np.random.default_rng([seed, 1])

    def source(*rates_hz: float, max_lag_s: float) -> Source:
        rate_hz = rng.choice(rates_hz) * rng.uniform(0.98, 1.02)
        lag_s, jitter_s = rng.uniform(0, max_lag_s), rng.choice([0.0, 0.1, 0.4]) / rate_hz
        return Source(rate_hz, rng.uniform(0, 1 / rate_hz), lag_s, jitter_s, rng.choice([0.0, 0.05, 0.3]))

    names = ("front", "wrist", "side")[: 1 + seed % 3]
    cameras = {name: source(10.0, 15.0, 30.0, 60.0, max_lag_s=0.15) for name in names}
    states, sources = source(20.0, 50.0, 200.0, max_lag_s=0.06), (ROBOT, APART)[seed % 2].joint_states
    robot = robot_with(cameras, max_camera_skew_s=rng.choice([0.03, 0.05, 0.1]), joint_states=sources)
    # Of one source, too, arm and hand may send messages of their own.
    drivers = replace(robot, joint_states=robot.joint_states if seed % 4 else ONE_TOPIC)
    return stream(cameras, states, seed, drivers), robot


@pytest.mark.parametrize("seed", range(20))
def test_live_replay_and_training_make_the_same_observations_of_a_random_stream(tmp_path, seed):
    said, robot = random_stream(seed)
    path = write_bag(tmp_path / "live", said)
    live = seen_live(path, robot)
    assert len(live) >= 4 and len(set(live)) == len(live)
    assert seen_in_replay(path, robot) == live
    assert seen_in_training(load(tmp_path / "train", said, robot)) == live


@pytest.mark.parametrize("lag_ms", [0, 40, 70, 150, 200])
def test_a_camera_that_arrives_late_costs_no_observation(tmp_path, lag_ms):
    cameras = {"front": Source(30.0, lag_s=lag_ms / 1000), "wrist": Source(30.0)}
    loaded = load(tmp_path / "bag", stream(cameras, Source(100.0)), robot_with(cameras))
    made = seen_in_training(loaded)
    assert len(made) == round(SECONDS * 30) and all(len(set(item.stamps_ns)) == 1 for item in made)
    assert sum(loaded.num_left_out.values()) <= 1, "the end may lack the late camera's last image"


def test_images_that_match_none_are_counted_by_the_reason(tmp_path):
    cameras = {"front": Source(5.0), "wrist": Source(5.0, start_s=0.1)}
    partly = {**cameras, "wrist": Source(5.0, start_s=1.1)}
    said = stream(cameras, Source(100.0)), stream(partly, Source(100.0))
    with pytest.raises(
        ValueError, match="left out: .*29 without an image of each other camera within max_camera_skew_s"
    ):
        load(tmp_path / "apart", said[0], robot_with(cameras))
    with pytest.raises(ValueError, match="left out: .*6 without an image of each other camera within its max_age_s"):
        load(tmp_path / "late", said[1], robot_with(partly))


def test_an_observation_is_made_once_and_a_repeated_image_is_counted():
    observer = ready_observer(0)
    assert observer.see(frame("front", 10 * MS), 20 * MS) is None
    assert observer.num_missed == {"without an image of each other camera within its max_age_s": 1}
    made = observer.see(frame("wrist", 12 * MS), 21 * MS)
    assert made is not None and made.stamp_ns == 10 * MS and list(made.frames) == ["front", "wrist"]
    assert observer.see(frame("front", 43 * MS), 50 * MS) is None, "the slower camera's newest is still the same"
    assert not observer.num_missed, "no image that went into an observation counts as missed"
    observer.see(frame("front", 43 * MS), 51 * MS)
    assert observer.num_missed == {"not newer than the one before": 1}


def test_images_of_a_long_silence_of_the_other_camera_are_all_counted():
    observer = ready_observer(0)
    for step in range(1, 31):
        observer.sensors.joints.add(joints(step * 33 * MS, 0.0, 0.0))
        observer.see(frame("front", step * 33 * MS), step * 33 * MS)
    made = observer.see(frame("wrist", 30 * 33 * MS), 31 * 33 * MS)
    assert made is not None and made.stamp_ns == 30 * 33 * MS
    assert observer.num_missed == {"without an image of each other camera within its max_age_s": 29}


def test_joints_are_not_interpolated_across_a_pause_longer_than_they_may_be_old():
    observer = ready_observer(0, 500 * MS)
    observer.see(frame("front", 450 * MS), 510 * MS)
    assert observer.see(frame("wrist", 450 * MS), 510 * MS) is None
    found = observe(ROBOT, observer.sensors, 510 * MS)
    assert isinstance(found, NoObservation) and "more than 0.2 s apart" in found.reason


def ready_observer(*joints_ns: int) -> Observer:
    observer = Observer(ROBOT)
    observer.sensors.task = "touch"
    for stamp_ns in joints_ns:
        observer.sensors.joints.add(joints(stamp_ns, 0.0, 0.0))
    return observer
