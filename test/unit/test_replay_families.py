"""Two families side by side on one bag: an imported pi0.5 that speaks degrees and percent, and the demo's policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pi0_helpers import write_lerobot, write_space

from vla_ros.cli import main

BAG = Path(__file__).parents[1] / "data" / "tabletop_touch"


def test_policies_of_two_families_and_units_are_compared_on_one_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = write_lerobot(tmp_path / "checkpoint", "pi05"), tmp_path / "degrees"
    space = write_space(tmp_path / "space.yaml")
    assert main(["import", str(checkpoint.folder), str(out), "--space", str(space)]) == 0
    capsys.readouterr()
    report = tmp_path / "report.json"
    args = ["replay", str(BAG), "--policy", str(out), "--policy", "tiny_touch", "--driver", "teleop"]
    main([*args, "--json", str(report), "--out", str(tmp_path / "html")])
    document = json.loads(report.read_text())
    random, trained = document["policies"]
    assert (random["name"], trained["name"]) == ("degrees", "tiny_touch")
    # Both in rad, of the same answers: random weights are off, by what a joint can be.
    assert random["chunks"] == trained["chunks"] > 0
    assert trained["mae"] < random["mae"] < np.pi
    overall = document["differences"][0]
    assert (overall["a"], overall["b"]) == ("degrees", "tiny_touch") and overall["difference"] < 0
    assert "degrees" in (tmp_path / "html" / "report.html").read_text()
