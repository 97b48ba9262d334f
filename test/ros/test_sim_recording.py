"""A bag recorded from the live topics is of the same kind as one the simulation writes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from bag_helpers import BagMessage, read_bag
from ros_harness import wait_until
from sim_harness import Child, SimGraph

from vla_ros.robot import load_robot
from vla_ros.share import share_path

pytest.importorskip("vla_ros.sim.world")
from vla_ros.sim.demonstrations import DemonstrationConfig, write_demonstrations  # noqa: E402
from vla_ros.sim.scene import sample_scene  # noqa: E402
from vla_ros.training.dataset import FrameRule, Frames, load_bags  # noqa: E402

ROBOT = load_robot(share_path("config/robots/tabletop.yaml"))
RULE = FrameRule(horizon=10, chunk_dt_s=0.1, offset=1.0, resize=lambda image: image, min_gap_s=0.3)
NUM_EPISODES = 3


@dataclass
class Bags:
    live: Path
    alone: Path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bags]:
    folder = tmp_path_factory.mktemp("bags")
    live = folder / "live"
    record_log = folder / "record.log"
    with SimGraph(ROBOT, folder, "expert:=true") as graph:
        graph.wait_until_up()
        recorder = Child(record_log, ["vla_ros.cli", "record", "--robot", "tabletop", "--out", str(live)])
        wait_until(lambda: "every topic" in recorder.log, "the recorder to find its topics", 60.0)
        # Not seed 0, with which the simulation begins: the same blocks and task once more are the same episode.
        for seed in range(1, NUM_EPISODES + 1):
            graph.start_episode(seed=seed)
            wait_until(lambda: graph.episodes[-1]["status"] == "success", "the expert's success", 60.0)
        assert recorder.stop() == 0, recorder.log
    config = DemonstrationConfig(num_episodes=8, seed=1, num_frames=6, anywhere_share=0.0)
    (alone,) = write_demonstrations(folder / "alone", ROBOT, config)
    yield Bags(live, alone)


def first_of_each_topic(path: Path) -> dict[str, BagMessage]:
    first: dict[str, BagMessage] = {}
    for message in read_bag(path):
        first.setdefault(message.topic, message)
    return first


def samples(path: Path) -> Frames:
    loaded = load_bags([path], ROBOT, RULE)
    assert not loaded.problems
    return loaded.frames


def test_both_bags_hold_the_same_topics_types_and_fields(bags):
    live, alone = first_of_each_topic(bags.live), first_of_each_topic(bags.alone)
    assert {topic: message.msgtype for topic, message in live.items()} == {
        topic: message.msgtype for topic, message in alone.items()
    }
    for topic, message in live.items():
        other = alone[topic].message
        assert [field.name for field in fields(message.message)] == [field.name for field in fields(other)]
        for name in ("encoding", "height", "width", "step", "name", "joint_names"):
            if hasattr(other, name):
                assert getattr(message.message, name) == getattr(other, name), f"{topic}: {name}"


def test_both_bags_give_training_samples_of_the_same_shapes_and_range(bags):
    live, alone = samples(bags.live), samples(bags.alone)
    assert len(live.tasks) >= NUM_EPISODES and len(live) >= NUM_EPISODES
    assert live.images.shape[1:] == alone.images.shape[1:]
    assert live.actions.shape[1:] == alone.actions.shape[1:]
    assert abs(float(live.images[:].mean()) - float(alone.images[:].mean())) < 12.0
    # What the arm is told relative to where it is: of the same size, whichever way it was recorded.
    for frames in (live, alone):
        moves = np.abs(frames.actions - frames.joint_positions[:, None])
        assert 0.05 < moves.max() < 1.5
        assert moves[:, 0].max() < 0.5


def test_a_live_episode_knows_its_own_blocks_and_instruction(bags):
    live = samples(bags.live)
    scene = sample_scene(NUM_EPISODES, "eval")
    assert live.tasks[-1] == scene.instruction
    assert live.scenes[-1].keys() == {block.color for block in scene.blocks}
    for block in scene.blocks:
        np.testing.assert_allclose(live.scenes[-1][block.color], (block.x_m, block.y_m), atol=1e-3)
