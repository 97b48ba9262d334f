"""Makes ``lerobot_set``: three episodes of an SO-101 in LeRobot's degrees, small enough to keep.

    PYTHONPATH=. python test/data/make_lerobot_set.py test/data/lerobot_set

Two cameras of 640x480 pixels at 10 Hz see a flat scene; the arm swings, each joint at its own pace, and what it
measures lags behind its commands. The third episode has a human's intervention in its middle, and failed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vla_ros.recordings.lerobot.write import EpisodeRows, SetLayout, SetWriter
from vla_ros.spaces.files import read_space

FPS, NUM_ROWS = 10, 24
NAMES = tuple(
    f"{joint}.pos" for joint in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
)
CAMERAS = {"front": (480, 640), "wrist": (480, 640)}
TASKS = ("put the block into the box", "put the block into the box", "give me the block")
START_NS = 1_700_000_000_000_000_000


def joints(episode: int, times_s: np.ndarray) -> np.ndarray:
    """Degrees, and the gripper in percent, ``[num_times, 6]``."""
    phases = np.arange(6) + episode
    return np.array([20, 15, 25, 10, 30, 40]) * np.sin(times_s[:, None] + phases) + np.array([0, 0, 0, 0, 0, 50])


def picture(camera: int, episode: int, row: int) -> np.ndarray:
    """A block that wanders over a table."""
    image = np.full((480, 640, 3), (90 + 40 * camera, 120, 70 + 20 * episode), np.uint8)
    left = 40 + 20 * row
    image[200:280, left : left + 80] = (220, 40, 40)
    return image


def main(folder: Path) -> None:
    space = read_space("so101_degrees")
    notes = {"state": space.state, "action": space.action}
    writer = SetWriter(folder, SetLayout("so101", FPS, NAMES, NAMES, CAMERAS, "h264", notes))
    for episode, task in enumerate(TASKS):
        drawn = writer.begin()
        for row in range(NUM_ROWS):
            drawn.add({name: picture(camera, episode, row) for camera, name in enumerate(CAMERAS)})
        times_s = np.arange(NUM_ROWS) / FPS
        is_human = [episode == 2 and 8 <= row < 16 for row in range(NUM_ROWS)]
        stamps_ns = START_NS + (100 * episode + times_s[:, None].repeat(3, 1)) * 1e9
        rows = EpisodeRows(
            states=joints(episode, times_s - 0.1),
            actions=joints(episode, times_s),
            tasks=[task] * NUM_ROWS,
            drivers=["TELEOP" if human or episode < 2 else "POLICY" for human in is_human],
            interventions=is_human,
            stamps_ns=stamps_ns.astype(np.int64),
        )
        writer.add(drawn, rows, "failure" if episode == 2 else "success", "made", episode)
    writer.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
