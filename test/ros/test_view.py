"""The operator's page beside a node that answers as the policy node does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="needs the extra view: pip install 'vla_ros[view]'")
import rclpy
from child_process import child_environment
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_policy_node import HERE, ROBOT, FakePolicyNode
from ros_harness import ROBOT_FILE, wait_until
from spun_node import SpunNode
from std_msgs.msg import Bool, String
from view_client import PageClient, PageProcess
from waiting import becomes_true

from vla_ros.messages.trajectories import parse_trajectory
from vla_ros.ros import qos
from vla_ros.view.operator import UNSEEN_S


class Listener(SpunNode):
    """Hears instructions and stops, whatever the policy node is busy with."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.stops: list[bool] = []
        node = rclpy.create_node("listener")
        node.create_subscription(String, "vla_policy/task", lambda msg: self.tasks.append(msg.data), qos.LATCHED)
        node.create_subscription(Bool, "vla_policy/estop", lambda msg: self.stops.append(msg.data), qos.RELIABLE)
        super().__init__(node)
        self.start()


@pytest.fixture(scope="module")
def page(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    page = PageProcess(tmp_path_factory.mktemp("page") / "view_node.log", robot=str(ROBOT_FILE))
    yield page
    assert page.stop() == 0, page.log


@pytest.fixture
def listener(ros: None) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def fake(page: PageProcess) -> Iterator[FakePolicyNode]:
    fake = FakePolicyNode()
    wait_until(lambda: fake.node.count_publishers("/vla_policy/teleop"), "its publisher of teleop")
    yield fake
    fake.close()


@pytest.fixture
def client(page: PageProcess, fake: FakePolicyNode) -> Iterator[PageClient]:
    with PageClient(page) as client:
        wait_until(lambda: client.mode == "HOLD" and client.newest["pose"]["joints"], "mode and joints")
        time.sleep(0.5)  # that its clients are found, too, shows nowhere
        yield client


def test_it_shows_a_robot_without_a_urdf_and_what_it_does(client, fake):
    scene = client.newest["scene"]
    assert [joint["name"] for joint in scene["joints"]] == list(ROBOT.joint_names) and not scene["links"]
    assert client.newest["pose"]["joints"] == pytest.approx(HERE.tolist())
    client.send("engage")
    wait_until(lambda: client.mode == "POLICY", "POLICY")
    wait_until(
        lambda: client.newest["board"]["driver"] == "the policy" and client.newest["board"]["known"], "who drives"
    )
    wait_until(lambda: "vla_policy: engage: POLICY it is" in client.acts, "the answer")

    def faults() -> str:
        return " ".join(fault["line"] for fault in client.newest["board"]["faults"])

    wait_until(lambda: "camera 'front': nothing on 'front/image'" in faults(), "that nobody plays its cameras here")


@pytest.mark.parametrize(
    "text", ["touch <script>alert(1)</script>", "ارفع المكعب \u202e الأحمر", "touch 'it' \\ \"now\""]
)
def test_an_instruction_goes_out_as_it_was_written(client, listener, text):
    client.send("instruct", text=text)
    wait_until(lambda: text in listener.tasks, "the instruction")
    wait_until(lambda: client.newest["board"]["task"] == text, "that it is shown")


def test_of_two_operators_the_last_act_counts_and_both_see_both(page, client, fake):
    with PageClient(page) as other:
        client.send("engage")
        wait_until(lambda: fake.mode == "POLICY", "POLICY")
        other.send("hold")
        wait_until(lambda: fake.mode == "HOLD", "HOLD")
        asked = {f"{client.origin}: engage", f"{other.origin}: hold"}
        for one in (client, other):
            wait_until(lambda: asked <= set(one.acts) and one.mode == "HOLD", "both acts")
        assert client.origin != other.origin and f"{other.origin}: hold" in page.log


def test_a_stop_goes_out_while_the_policy_node_answers_nobody(client, fake, listener):
    wait_until(lambda: listener.node.count_publishers("/vla_policy/estop"), "its publisher of the stop")
    busy, over = threading.Event(), threading.Event()
    fake.refusals["engage"] = "busy"  # when it answers at last
    fake.node.create_timer(0.0, lambda: (busy.set(), over.wait(20.0)))
    try:
        assert busy.wait(20.0)
        client.send("engage")
        client.send("stop")
        wait_until(lambda: True in listener.stops, "the stop", patience_s=5.0)
        wait_until(lambda: "stopped" in client.newest, "that it is confirmed", patience_s=5.0)
    finally:
        over.set()
        fake.do(lambda: [timer.cancel() for timer in list(fake.node.timers)[1:]])
    wait_until(lambda: client.mode == "ESTOP", "ESTOP")
    time.sleep(UNSEEN_S)  # a reset that somebody means
    client.send("reset")
    wait_until(lambda: fake.mode == "HOLD" and fake.estops[-1] is False, "the reset")


def test_a_stop_beats_a_reset_of_the_same_moment(client, fake):
    client.send("stop")
    wait_until(lambda: client.mode == "ESTOP", "ESTOP")
    for first, second in (("reset", "stop"), ("stop", "reset")):
        time.sleep(UNSEEN_S)  # a reset that somebody means
        fake.calls.clear()
        num = len(fake.estops)
        client.send(first)
        client.send(second)
        wait_until(lambda: True in fake.estops[num:], "the stop")
        time.sleep(UNSEEN_S)  # whatever was called off would have come by now
        # A reset that is heard long before the stop, as on a busy machine, is one; the stop that follows counts.
        assert client.mode == "ESTOP" and (first == "reset" or "reset_estop" not in fake.calls)
    time.sleep(UNSEEN_S)  # a reset that somebody means
    client.send("reset")
    wait_until(lambda: client.mode == "HOLD", "the reset")


def test_a_human_jogs_while_a_slider_is_held_and_no_longer(page, fake, monkeypatch):
    monkeypatch.setattr("fake_policy_node.SILENCE_S", 20.0)  # a busy machine keeps the page from sending, too
    with PageClient(page) as client:
        wait_until(lambda: client.newest["pose"]["joints"], "joints")
        client.send("jog", joint="shoulder", share=1.0)
        wait_until(lambda: "take over first" in client.newest.get("line", {}).get("text", ""), "a refusal")
        client.send("takeover")
        wait_until(lambda: client.mode == "TELEOP" and fake.trajectories, "TELEOP")
        wait_until(lambda: client.newest["board"]["driver"] == client.origin, "who drives")
        for _ in range(10):
            client.send("jog", joint="shoulder", share=1.0)
            time.sleep(0.05)  # as often as a held slider sends
        targets = [parse_trajectory(msg, ROBOT.joint_names).positions[0] for msg in fake.trajectories]
        assert targets[-1][1] > HERE[1] + 0.02 and targets[-1][0] == pytest.approx(HERE[0])
        time.sleep(0.5)  # nobody holds it any more
        num = len(fake.trajectories)
        wait_until(lambda: len(fake.trajectories) >= num + 5, "that the hand stays")
        last = [parse_trajectory(msg, ROBOT.joint_names).positions[0][1] for msg in fake.trajectories[num:]]
        assert max(last) == min(last)
        fake.calls.clear()
    wait_until(lambda: "hold" in fake.calls and fake.mode == "HOLD", "that whoever leaves lets go")


def test_marks_of_episodes_are_for_who_records(client, fake):
    wait_until(lambda: client.newest["board"]["recorded"], "that somebody records")
    for mark in ("success", "start", "success"):
        client.send("mark", mark=mark)
    wait_until(lambda: fake.marks == ["start", "success"], "the marks")
    wait_until(lambda: "no episode is under way" in client.newest.get("line", {}).get("text", ""), "why not the first")


def test_a_killed_page_lets_go_of_nothing_and_the_next_one_resets_its_stop(fake, page, tmp_path: Path):
    other = PageProcess(tmp_path / "other.log", robot=str(ROBOT_FILE))
    with PageClient(other) as client:
        wait_until(lambda: client.newest["pose"]["joints"], "joints")
        client.send("stop")
        wait_until(lambda: fake.mode == "ESTOP", "ESTOP")
    other.stop(signal.SIGKILL)
    assert fake.estops[-1] is True and fake.mode == "ESTOP"
    again = PageProcess(tmp_path / "again.log", robot=str(ROBOT_FILE))
    with PageClient(again) as client:
        wait_until(lambda: client.mode == "ESTOP", "what it finds")

        def is_reset() -> bool:  # as soon as its client of the service has found it
            client.send("reset")
            return becomes_true(lambda: fake.mode == "HOLD", 2.0)

        wait_until(is_reset, "the reset")
    assert again.stop() == 0


def test_a_policy_node_that_has_gone_has_no_mode(client, fake):
    status = DiagnosticStatus(name="vla_policy: control", message="HOLD: at start", level=DiagnosticStatus.OK)
    with fake.publishing(DiagnosticArray, "/diagnostics", qos.REPORT) as publisher:
        report = DiagnosticArray(status=[status])

        def is_heard() -> bool:  # whoever else hears it, as a page that was killed seems to
            publisher.publish(report)
            return client.newest["board"]["why"] == status.message

        wait_until(is_heard, "that the page hears")
        wait_until(lambda: client.mode == "", "that its silence shows")

        def says_why() -> bool:  # the board comes behind the pose
            return any("vla_policy is silent" in fault["line"] for fault in client.newest["board"]["faults"])

        wait_until(says_why, "why")
        publisher.publish(report)
        wait_until(lambda: client.mode == "HOLD", "its mode")


@pytest.mark.parametrize(
    "parameters, line",
    [
        (["view_address:=0.0.0.0"], "there is no token; give a token file"),
        (["view_token_file:=/no/such"], "token file /no/such: No such file"),
        (["robot:=/no/such.yaml"], "robot '/no/such.yaml' does not exist"),
        (["view_port:=99999"], "view_port"),
    ],
)
def test_it_says_in_one_line_why_it_cannot_start(parameters: list[str], line: str) -> None:
    command = [sys.executable, "-m", "vla_ros.view.node", "--ros-args", *(w for p in parameters for w in ("-p", p))]
    run = subprocess.run(command, capture_output=True, text=True, env=child_environment(), timeout=60)
    assert run.returncode == 2 and line in run.stderr
    assert run.stderr.startswith("view_node: ") and run.stderr.count("\n") == 1
