"""docs/robot_file.md says what the dataclasses say."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from vla_ros.robot.parts import CameraConfig

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_of_robot_files_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "robot_file.py"))["page"]()
    assert (DOCS / "robot_file.md").read_text() == page, "run: python docs/robot_file.py > docs/robot_file.md"
    assert all(f"| `{field.name}` |" in page for field in fields(CameraConfig))


@pytest.mark.parametrize(("change", "key"), [("pop", "rate_hz"), ("add", "shutter_s")])
def test_a_key_without_a_meaning_and_a_meaning_without_a_key_are_named(change: str, key: str) -> None:
    script = runpy.run_path(str(DOCS / "robot_file.py"))
    cameras = script["MEANINGS"]["cameras"]
    cameras.pop(key) if change == "pop" else cameras.update({key: "how long it is open"})
    with pytest.raises(KeyError, match=key):
        script["page"]()
