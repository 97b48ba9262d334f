"""Robot files whose limits come from a topic, where no topic can be read: the URDF is that of the bags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ros.bags.files import find_bags
from vla_ros.bags.read import BagReader
from vla_ros.recordings.feed import resolve_topic
from vla_ros.robot import RobotConfig, read_robot_file
from vla_ros.topics import STRING


@dataclass(frozen=True)
class DescribedRobot:
    """``bag`` has its URDF; None where the robot file needs none of a topic."""

    robot: RobotConfig
    bag: Path | None = None


def load_robot_of(path: str | Path, places: Sequence[Path], namespace: str = "") -> RobotConfig:
    """As ``describe_robot``, the robot alone."""
    return describe_robot(path, places, namespace).robot


def describe_robot(path: str | Path, places: Sequence[Path], namespace: str = "") -> DescribedRobot:
    """A robot file, with the URDF of its ``urdf_topic``, where it has one, from the bags in ``places``, recorded in
    ``namespace``.

    Raises ValueError as ``load_robot``, and, naming the bag, where none has it or two have it otherwise.
    """
    file = read_robot_file(path)
    if not file.urdf_topic:
        return DescribedRobot(file.robot())
    topic = resolve_topic(file.urdf_topic, namespace)
    first: tuple[Path, str] | None = None
    for bag in _bags(places):
        text = _recorded_text(bag, topic)
        if text and first is None:
            first = bag, text
        elif text and first is not None and text != first[1] and file.robot(text) != file.robot(first[1]):
            got = f"robot file {path}: bags {first[0]} and {bag} have other limits on '{topic}' (urdf_topic)"
            raise ValueError(f"{got}; expected one robot: take them apart, or give urdf: FILE instead")
    if first is None:
        got = f"robot file {path}: urdf_topic is '{file.urdf_topic}', and no bag here has a URDF on '{topic}'"
        raise ValueError(f"{got}; expected one that vla_ros record recorded; else give urdf: FILE instead")
    return DescribedRobot(file.robot(first[1]), first[0])


def _bags(places: Sequence[Path]) -> Iterator[Path]:
    """What is no bag is said by whoever reads it."""
    for place in places:
        try:
            yield from find_bags(place).bags
        except ValueError:
            continue


def _recorded_text(bag: Path, topic: str) -> str:
    """The first message of a topic of texts; empty where there is none, or it can't be read."""
    try:
        reader = BagReader(bag)
        message = next(reader.messages((topic,)), None) if reader.first_of(topic) else None
        return str(reader.decode(message).data) if message is not None and message.msgtype == STRING else ""
    except ValueError:
        return ""
