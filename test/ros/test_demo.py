"""``vla_ros demo`` as a user runs it: three processes, the packaged policy, figures and pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ros_harness import SOURCE_ROOT

from vla_ros.share import share_path

pytest.importorskip("vla_ros.sim.world")
PATIENCE_S = 300.0


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo in a domain of its own choice."""
    ours = ("ROS_DOMAIN_ID", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    env = {key: value for key, value in os.environ.items() if key not in ours}
    env["PYTHONPATH"] = os.pathsep.join([str(SOURCE_ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "vla_ros.cli", "demo", "--out", str(folder), *arguments]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def node_processes(folder: Path) -> list[str]:
    """Command lines of running nodes that a demo with the policy in ``folder`` has started."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if re.search(r"-m vla_ros\.\w+\.\w*node ", line + " ") and str(folder) in line]


@pytest.fixture
def own_policy(tmp_path: Path) -> Path:
    """A copy of the packaged policy, by whose path this demo's processes can be told from others."""
    return Path(shutil.copytree(share_path("models/tiny_touch"), tmp_path / "policy"))


def test_an_episode_is_scored_measured_and_pictured(own_policy, tmp_path):
    figures = tmp_path / "figures.json"
    arguments = ("--policy", str(own_policy), "--episodes", "1", "--seed", "3", "--json", str(figures))
    demo = start_demo(tmp_path, *arguments, "--min-success", "0")
    out, err = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, err
    values = json.loads(figures.read_text())
    assert set(values) == {"success_rate", "episodes", "control", "inference_ms", "observation_age_ms"}
    (episode,) = values["episodes"]
    assert set(episode) == {"seed", "instruction", "success", "seconds"}
    assert episode["seed"] == 3 and episode["instruction"] in out
    assert isinstance(episode["success"], bool) and 0 < episode["seconds"] < 9
    assert set(values["control"]) == {"rate_hz", "period_ms_p50", "period_ms_p99", "period_ms_max"}
    assert values["inference_ms"]["p50"] > 0
    assert "success" in out and "observation age" in out
    for name in ("contact_sheet.png", "joints.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not node_processes(own_policy)


def test_a_damaged_policy_ends_the_demo_in_one_line_and_exit_code_2(own_policy, tmp_path):
    weights = own_policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    demo = start_demo(tmp_path, "--policy", str(own_policy), "--episodes", "1")
    _, err = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 2
    assert err.count("\n") == 1 and "model.safetensors" in err
    assert not node_processes(own_policy)


def test_an_interrupted_demo_leaves_no_node_behind(own_policy, tmp_path):
    demo = start_demo(tmp_path, "--policy", str(own_policy), "--episodes", "1")
    deadline = time.monotonic() + PATIENCE_S
    while len(node_processes(own_policy)) < 2 and demo.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130
    assert err == "vla_ros demo: interrupted\n"
    assert not node_processes(own_policy)
