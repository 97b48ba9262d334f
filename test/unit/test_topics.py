"""Names that users know lie in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vla_ros
from vla_ros import topics
from vla_ros.types import Mode

PACKAGE = Path(vla_ros.__file__).parent
ROOT = Path(__file__).parents[2]
NAME = re.compile(r"vla_(policy|model)/[a-z]")
MODE = re.compile("|".join(Mode))


def texts(path: Path) -> list[tuple[int, str]]:
    """Every text of a module that is no docstring, with its line."""
    tree = ast.parse(path.read_text())
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in bare]
    return [(node.lineno, node.value) for node in constants if isinstance(node.value, str)]


def test_no_module_spells_out_a_topic_or_a_service():
    spelled = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}; use vla_ros.topics"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "topics.py"
        for line, text in texts(path)
        if NAME.search(text)
    ]
    assert not spelled, "\n".join(spelled)


def test_no_module_spells_out_a_mode():
    spelled = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}; use vla_ros.types.Mode"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "types.py"
        for line, text in texts(path)
        if MODE.fullmatch(text)
    ]
    assert not spelled, "\n".join(spelled)


@pytest.mark.parametrize(("named", "private"), [(topics.TASK, "~/task"), (topics.ENGAGE, "~/engage")])
def test_the_node_it_belongs_to_knows_a_name_as_its_own(named: topics.Topic | topics.Service, private: str):
    assert named.private.name == private and named.private.type == named.type


def test_every_type_is_one_that_ros_has():
    pytest.importorskip("rclpy")
    from vla_ros.ros.endpoints import interface_class

    named = [value for value in vars(topics).values() if isinstance(value, topics.Topic | topics.Service)]
    assert (ROOT / f"{topics.RUN_TASK.type}.action").is_file(), "ours: vla_ros_msgs, which need not be built"
    named.remove(topics.RUN_TASK)
    assert len(named) > 15
    for one in named:
        assert interface_class(one.type).__name__ == one.type.rpartition("/")[2]
