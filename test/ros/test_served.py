"""A policy that is served elsewhere drives the real nodes; what its server does wrong ends in HOLD, by its name, and
is over when the server is well again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ros_harness import SOURCE_ROOT, START_PATIENCE_S, NodeProcess, Probe, wait_until

from vla_ros.cli import main
from vla_ros.robot import load_robot

TESTS = SOURCE_ROOT / "test"
ROBOT_FILE = TESTS / "data" / "three_joints.yaml"
JOINTS = ["base", "shoulder", "wrist"]
SPACE = {
    "chunk_dt_s": 0.5,
    "state": [{"type": "joints", "joints": JOINTS}],
    "action": [{"type": "joints", "joints": JOINTS}],
    "cameras": [{"key": "base_0_rgb", "camera": "front"}, {"key": "left_wrist_0_rgb", "camera": "top"}],
}


class ServerProcess:
    """The server, which may be killed, stopped and started again at the same place."""

    def __init__(self, folder: Path) -> None:
        self._mode_file = folder / "mode"
        with socket.create_server(("localhost", 0)) as free:
            self.port = free.getsockname()[1]
        self.be("good")
        self.start()

    def start(self) -> None:
        server = TESTS / "unit" / "served_helpers.py"
        self.child = subprocess.Popen([sys.executable, str(server), str(self.port), str(self._mode_file)])

    def be(self, mode: str) -> None:
        new = self._mode_file.with_suffix(".new")
        new.write_text(mode)
        new.replace(self._mode_file)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def heal(self, failure: str) -> None:
        if failure == "frozen":
            self.child.send_signal(signal.SIGCONT)
        elif failure == "killed":
            self.start()
        self.be("good")

    def fail(self, failure: str) -> None:
        if failure == "frozen":
            self.child.send_signal(signal.SIGSTOP)
        elif failure == "killed":
            self.kill()
        else:
            self.be(failure)


@dataclass
class ServedGraph:
    """Both nodes, the probe that plays the robot, and the server."""

    server: ServerProcess
    probe: Probe

    def says(self, *words: str) -> bool:
        return any(word in self.probe.said("vla_model: inference") for word in words)


@pytest.fixture(scope="module")
def graph(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGraph]:
    folder = tmp_path_factory.mktemp("served")
    keys = yaml.safe_load((TESTS.parent / "config" / "served" / "ur5e.yaml").read_text())
    keys["state"][0]["size"] = 2
    for name, document in (("space", SPACE), ("keys", keys)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    server, policy = ServerProcess(folder), folder / "policy"
    command = ["import", f"ws://localhost:{server.port}", str(policy), "--robot", str(ROBOT_FILE)]
    command += ["--space", str(folder / "space.yaml"), "--keys", str(folder / "keys.yaml")]
    wait_until(lambda: main(command) == 0, "the import", START_PATIENCE_S)
    probe = Probe(load_robot(ROBOT_FILE))
    parameters = {"policy": policy, "autostart": "true"}
    nodes = [NodeProcess("nodes.model_node", folder / "model_node.log", parameters)]
    parameters |= {"robot": ROBOT_FILE, "result_timeout_s": 2}
    nodes.append(NodeProcess("nodes.policy_node", folder / "policy_node.log", parameters))
    try:
        yield ServedGraph(server, probe)
    finally:
        codes = [node.stop() for node in nodes]
        probe.close()
        server.kill()
    assert codes == [0, 0], nodes[0].log + nodes[1].log
    assert "Traceback" not in nodes[0].log + nodes[1].log


# What the model node says of each; a mode of the server's, or what is done to its process.
FAILURES = {
    "killed": ("closed the connection", "refuses the connection"),
    "frozen": ("did not answer",),
    "text": ("failed and says: KeyError: 'observation/state'",),
    "shape": ("answered with actions [10, 2]; expected [10, 3]",),
    "nan": ("answered with actions that are not finite",),
    "huge": ("sent more than 16 MB",),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_server_that_fails_ends_in_hold_and_drives_again_when_it_is_well(failure: str, graph: ServedGraph) -> None:
    probe = graph.probe
    probe.reset()
    wait_until(lambda: probe.mode() == "HOLD", "HOLD", START_PATIENCE_S)
    probe.say("touch the red block")
    probe.drive(2)
    wait_until(lambda: graph.says("each inference waits for the server at ws://localhost"), "what it waits for")
    assert probe.mode() == "POLICY"
    graph.server.fail(failure)
    wait_until(lambda: probe.mode() == "HOLD", "HOLD after the failure")
    wait_until(lambda: graph.says(*FAILURES[failure]), f"one of {FAILURES[failure]} on /diagnostics")
    graph.server.heal(failure)
    probe.drive(2)
    probe.trigger("vla_policy/hold")
