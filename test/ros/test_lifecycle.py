"""The life of a node: it ends when it is told to, is heard while it loads, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from ros_harness import ROBOT_FILE, SOURCE_ROOT, START_PATIENCE_S, wait_until
from std_msgs.msg import Bool

from vla_ros.nodes import model_worker, policy_node
from vla_ros.nodes.model_node import ModelNode
from vla_ros.nodes.policy_node import PolicyNode
from vla_ros.ros import threads
from vla_ros.ros.managed import Role, Spinner, spinning
from vla_ros.topics import BOOL, Qos, Topic
from vla_ros.transforms.sample import PolicyRequest

# It loads for ever, and hardly lets another thread have the interpreter.
SLOW_MODEL_NODE = """
import sys
from vla_ros import start
from vla_ros.nodes import model_worker

def load(*_):
    print("loading", flush=True)
    while True:
        sum(range(1_000_000))

model_worker.loader = load
sys.exit(start.model_node())
"""
NUM_CYCLES = 40


def test_a_model_node_is_heard_while_it_loads(ros: None, monkeypatch) -> None:
    may_end = threading.Event()

    def load() -> None:
        may_end.wait()
        raise ValueError("no such policy")

    monkeypatch.setattr(model_worker, "loader", lambda *_: load)
    heard: list[DiagnosticStatus] = []
    node, listener = ModelNode(), rclpy.create_node("listener")
    listener.create_subscription(DiagnosticStatus, "vla_model/status", heard.append, 10)
    configuring = threading.Thread(target=node.trigger_configure)
    with spinning(listener):
        configuring.start()
        wait_until(lambda: heard and re.fullmatch("loading for [1-9][0-9]* s", heard[-1].message), "its age")
        assert heard[-1].level == DiagnosticStatus.ERROR
        may_end.set()
        configuring.join()
        wait_until(lambda: heard[-1].message == "no such policy", "the reason")
    node.close()
    node.destroy_node()
    listener.destroy_node()


def test_a_destroyed_node_offers_no_transitions_that_nobody_would_answer(ros: None) -> None:
    node, listener = ModelNode(), rclpy.create_node("listener")

    def is_offered() -> bool:
        return any(name == "/vla_model/change_state" for name, _ in listener.get_service_names_and_types())

    gc.disable()
    try:
        wait_until(is_offered, "the node")
        node.close()
        node.destroy_node()
        wait_until(lambda: not is_offered(), "its end")
    finally:
        gc.enable()
        listener.destroy_node()


def test_a_model_node_says_which_requests_run_without_a_graph(ros: None, monkeypatch) -> None:
    runner = SimpleNamespace(
        uncaptured=["not captured as a CUDA graph: out of memory"] * 2,
        trouble="",
        waits_for="",
        not_compiled="",
        close=lambda: None,
    )
    policy = model_worker.RunningPolicy(runner, PolicyRequest, "digest", "cuda:0", 0.0)
    monkeypatch.setattr(model_worker, "loader", lambda *_: lambda: policy)
    heard: list[DiagnosticArray] = []
    node, listener = ModelNode(), rclpy.create_node("listener")
    listener.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    with spinning(listener):
        node.trigger_configure()
        node.trigger_activate()
        expected = "active; 2 shape(s) of request run slowly, the first was not captured as a CUDA graph: out of memory"
        wait_until(lambda: heard and heard[-1].status[0].message == expected, "the shapes")
        runner.uncaptured.clear()
        wait_until(lambda: heard[-1].status[0].message == "active", "nothing said")
    node.close()
    node.destroy_node()
    listener.destroy_node()


def test_a_node_that_loads_ends_at_once_on_a_signal(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    with log.open("wb") as file:
        node = subprocess.Popen(
            [sys.executable, "-c", SLOW_MODEL_NODE, "--ros-args", "-p", "autostart:=true"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"},
            cwd=SOURCE_ROOT,
        )
    try:
        wait_until(lambda: "loading" in log.read_text(), "the load", START_PATIENCE_S)
        begun_s = time.monotonic()
        node.send_signal(signal.SIGINT)
        assert node.wait(20.0) == 0
        assert time.monotonic() - begun_s < threads.LIMIT_S, "it was waited for"
        assert "Traceback" not in log.read_text()
    finally:
        node.kill()
        node.wait()


def test_a_configure_that_fails_destroys_nothing_of_a_node_that_another_thread_spins(ros: None, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("no hand")

    node, destroyed = PolicyNode(), list[Publisher]()
    node.set_parameters([Parameter("policy", value="none"), Parameter("robot", value=str(ROBOT_FILE))])
    with monkeypatch.context() as patch:
        patch.setattr(policy_node, "HumanInputs", refuse)
        patch.setattr(node, "destroy_publisher", destroyed.append)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.failure == "no hand" and not destroyed
    node.close()
    node.destroy_node()


def test_a_spinner_stops_when_its_thread_comes_to_wait_a_moment_later(ros: None, monkeypatch) -> None:
    node = rclpy.create_node("late")
    spinner, arrived, may_go_on = Spinner(node), threading.Event(), threading.Event()
    get_nodes = spinner._executor.get_nodes

    def slow_get_nodes() -> list[Node]:
        nodes = get_nodes()
        arrived.set()
        may_go_on.wait()
        return nodes

    monkeypatch.setattr(spinner._executor, "get_nodes", slow_get_nodes)  # after it looked whether it is to end
    spinner.start()
    arrived.wait()
    stopping = threading.Thread(target=spinner.stop, daemon=True)
    stopping.start()
    wait_until(spinner._stopped.done, "the wake-up")
    may_go_on.set()
    stopping.join(threads.LIMIT_S - 1.0)
    assert not stopping.is_alive() and not spinner._thread.is_alive()
    node.destroy_node()


def test_a_callback_that_never_returns_is_named_and_left_behind(ros: None, monkeypatch, capfd) -> None:
    monkeypatch.setattr(threads, "LIMIT_S", 0.2)
    owner, has_begun, may_end = rclpy.create_node("owner"), threading.Event(), threading.Event()

    def hang(msg: Bool) -> None:
        has_begun.set()
        may_end.wait()

    role = Role(owner, "stuck")
    role.subscribe(Topic("said", BOOL, Qos.LATCHED), hang)
    publisher = role.publisher(Topic("said", BOOL, Qos.LATCHED))
    role.start()
    publisher.publish(Bool())
    assert has_begun.wait(20.0)
    role.stop()
    assert "thread 'owner_stuck' has not ended in 0.2 s; it is left behind" in capfd.readouterr().err
    may_end.set()
    role.stop()
    owner.destroy_node()


def test_a_life_that_begins_again_and_again_leaves_little_behind(tmp_path: Path) -> None:
    script, figures = SOURCE_ROOT / "benchmarks" / "lifecycle.py", tmp_path / "figures.json"
    command = [sys.executable, str(script), "--cycles", str(NUM_CYCLES), "--max-kb", "100", "--json", str(figures)]
    env = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env["PYTHONPATH"] = os.pathsep.join([str(SOURCE_ROOT), env.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    # So few tell 0.1 MB from 0.6: a node that is made for each role, and each time.
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(figures.read_text())["cycles"] == NUM_CYCLES
