"""Whether what must come from one node comes from one."""

from __future__ import annotations

from vla_ros.check.finding import Part
from vla_ros.check.seen import GraphSeen


def judge_rivals(seen: GraphSeen) -> Part:
    """Commands, and what the two nodes say: of two policy or model nodes on one robot, too, which bear one name."""
    part = Part("rivals")
    for topic in (*(output.topic for output in seen.outputs.values()), *seen.of_the_nodes):
        if len(topic.publishers) > 1:
            got = f"{topic.name} has {len(topic.publishers)} publishers: {', '.join(p.node for p in topic.publishers)}"
            part.fail(topic.name, got, "one", "end the others: nobody drives while they are there")
    return part
