"""The two nodes say, hear and offer what they are permitted to under SROS 2, and nothing else."""

from __future__ import annotations

import pytest
from ros_harness import wait_until
from test_permissions import allowed

# Of each node the role that is found last.
LAST = {"vla_policy": "vla_policy_stop", "vla_model": "vla_model_link"}


@pytest.mark.parametrize("node", ["vla_policy", "vla_model"])
def test_every_endpoint_of_a_node_is_among_its_permissions(graph, node: str) -> None:
    asked, robot = graph.probe.node, graph.probe.robot

    def own_nodes() -> list[str]:
        return [name for name in asked.get_node_names() if name == node or name.startswith(f"{node}_")]

    own = wait_until(lambda: LAST[node] in own_nodes() and own_nodes(), "the node and its roles")
    of_the_robot = {camera.topic for camera in robot.cameras} | {output.command_topic for output in robot.outputs}
    for how, what, list_names in (
        ("publish", "topic", asked.get_publisher_names_and_types_by_node),
        ("subscribe", "topic", asked.get_subscriber_names_and_types_by_node),
        ("reply", "service", asked.get_service_names_and_types_by_node),
    ):
        used = {name.lstrip("/") for one in own for name, _ in list_names(one, "/")}
        permitted = {name.replace("~", node) for name in allowed(node, what, how)}
        assert used and used - of_the_robot <= permitted, how
