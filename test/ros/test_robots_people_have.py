"""Each packaged robot, by its drivers: a policy in its space drives, a human takes over, and HOLD is the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from robots import PRESETS
from ros_harness import SOURCE_ROOT

SECONDS, TAKEOVERS = 3, 2
TIMEOUT_S = 480
MIN_WAY = 1e-3


@pytest.mark.parametrize("robot", PRESETS)
def test_a_policy_in_its_space_drives_it_within_its_file_and_a_human_takes_over(
    control_msgs: None, tmp_path: Path, robot: str
) -> None:
    script, figures = SOURCE_ROOT / "benchmarks" / "robots.py", tmp_path / "figures.json"
    counts = ["--seconds", str(SECONDS), "--takeovers", str(TAKEOVERS)]
    run = subprocess.run(
        [sys.executable, str(script), robot, *counts, "--json", str(figures)],
        capture_output=True,
        text=True,
        cwd=SOURCE_ROOT,
        timeout=TIMEOUT_S,
    )
    assert figures.exists(), run.stdout + run.stderr
    rows = {row["what"].split(",")[0].strip(): row["measured"] for row in json.loads(figures.read_text())[robot]}
    told = run.stdout + run.stderr
    assert rows["commands outside the robot file"] == 0, told
    assert rows["messages outside the robot file"] == 0, told
    assert rows["end that is not HOLD at rest"] == 0, told
    # Latency is a quiet machine's business; that each takeover came is not.
    assert rows["takeovers that no command followed"] == 0, told
    assert rows["chunks"] > 0 and rows["largest way of a joint"] > MIN_WAY, told
