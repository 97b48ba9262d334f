"""Whether what must come from one node comes from one, and whether images come through."""

from __future__ import annotations

from vla_ros.check.finding import Part
from vla_ros.check.seen import GraphSeen
from vla_ros.robot import RobotConfig

MAX_LOST_SHARE = 0.05


def judge_rivals(seen: GraphSeen) -> Part:
    """Commands, and what the two nodes say: of two policy or model nodes on one robot, too, which bear one name."""
    part = Part("rivals")
    for topic in (*(output.topic for output in seen.outputs.values()), *seen.of_the_nodes):
        if len(topic.publishers) > 1:
            got = f"{topic.name} has {len(topic.publishers)} publishers: {', '.join(p.node for p in topic.publishers)}"
            part.fail(topic.name, got, "one", "end the others: nobody drives while they are there")
    return part


def judge_lost(robot: RobotConfig, seen: GraphSeen) -> Part:
    """Images that the middleware says it could not deliver."""
    part = Part("images")
    for camera in robot.cameras:
        num_lost, num_came = seen.num_lost.get(camera.topic, 0), len(seen.cameras[camera.name].stream)
        if num_lost > MAX_LOST_SHARE * num_came:
            got = f"{num_lost} of {camera.topic} were lost on the way, {num_came} came"
            part.warn("lost", got, "none", seen.cure_of_losses)
    return part
