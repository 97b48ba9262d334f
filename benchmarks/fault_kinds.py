"""What can go wrong from outside the nodes: each fault as a context that injects it and ends it again."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import sensor_relay
from diagnostic_msgs.msg import DiagnosticStatus
from fault_client import OTHER_DIGEST, Answer, FaultClient
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from sensor_relay import JOINTS, SensorRelay, Spoiler
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.demo.client import ACTIVATE, DEACTIVATE
from vla_ros.demo.world import START_TIMEOUT_S, TRANSITION_TIMEOUT_S, DemoWorld
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import COMMAND, LATCHED

PATIENCE_S = 10.0
OVERRUN_S = 0.2
"""More than the control loop may be away, less than makes joint states stale."""
REPEAT_S = 0.02
ABSENCE_S = 2.5
"""More than max_recovery_s: going on needs a human."""
NUM_GARBAGE = 20
SEND_PAUSE_S, FILL_START_S = 0.3, 8.0
COLORS = ("red", "green", "blue")


@dataclass(frozen=True)
class Stage:
    """What faults are injected into."""

    world: DemoWorld[FaultClient]
    relay: SensorRelay
    random: random.Random

    @property
    def client(self) -> FaultClient:
        return self.world.client


Injection = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """``/diagnostics`` must say all ``words``, and the robot must come to be in one of ``modes``."""

    inject: Injection
    words: tuple[str, ...]
    modes: tuple[str, ...] = ("HOLD",)


def _sensor(spoiler: Callable[[], Spoiler], *streams: str) -> Injection:
    """Spoil one of ``streams``."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        stream = stage.random.choice(streams)
        stage.relay.spoil[stream] = spoiler()
        try:
            yield
        finally:
            del stage.relay.spoil[stream]

    return inject


def _stopped(process: str, for_s: float | None = None) -> Injection:
    """A process stands still: until ended, or ``for_s``."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        pid = stage.world.processes.pid(process)
        os.kill(pid, signal.SIGSTOP)
        try:
            if for_s is None:
                yield
            else:
                time.sleep(for_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        if for_s is not None:
            yield

    return inject


@contextmanager
def _model_killed(stage: Stage) -> Iterator[None]:
    stage.world.processes.kill("model_node")
    try:
        yield
    finally:
        started_s = time.monotonic()
        stage.world.start_model()
        if not stage.client.wait_until(lambda: stage.client.is_model_ready_since(started_s), START_TIMEOUT_S):
            raise ValueError(f"model_node never came back: {stage.world.processes.last_line('model_node')}")


@contextmanager
def _model_deactivated(stage: Stage) -> Iterator[None]:
    stage.client.change_state("vla_model", DEACTIVATE, TRANSITION_TIMEOUT_S)
    try:
        yield
    finally:
        stage.client.change_state("vla_model", ACTIVATE, TRANSITION_TIMEOUT_S)


def _answered(answer: Answer, digest: str = "") -> Injection:
    """Requests are answered wrongly, before the model can; in the name of ``digest``, if given."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        stage.client.answer_digest, stage.client.answer = digest, answer
        try:
            yield
        finally:
            stage.client.answer = None

    return inject


def repeated(action: Callable[[FaultClient], None], num: int | None = None) -> Injection:
    """Do something again and again: until ended, or ``num`` times."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        is_over = threading.Event()

        def work() -> None:
            for _ in range(num or 1 << 30):
                action(stage.client)
                if is_over.wait(REPEAT_S):
                    return

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    return inject


@contextmanager
def _garbage(stage: Stage) -> Iterator[None]:
    request = stage.client.last_request
    for i in range(NUM_GARBAGE):
        data = stage.random.randbytes(stage.random.randrange(200))
        if i % 2:
            cut = bytearray(request[: stage.random.randrange(len(request))])
            for _ in range(min(5, len(cut))):
                cut[stage.random.randrange(len(cut))] ^= 1 << stage.random.randrange(8)
            data = bytes(cut)
        stage.client.send_link(data)
        time.sleep(REPEAT_S)
    yield


@contextmanager
def large_messages(stage: Stage, *names: str, times: int = 1, pause_s: float = SEND_PAUSE_S) -> Iterator[None]:
    """Another process sends what is far too large: here the relay would wait for that."""
    script, robot_file = Path(__file__).with_name("large_messages.py"), stage.world.config.policy_robot
    counts = ("--times", str(times), "--pause-s", str(pause_s))
    stage.world.processes.start("large_messages", [sys.executable, str(script), *names, "--robot", robot_file, *counts])
    try:
        yield
    finally:
        stage.world.processes.kill("large_messages")
        stage.client.say_task(_instruction(stage))


def too_large(name: str, times: int = 1) -> Injection:
    """More than once where it is heard at best effort: some of so many packets may be lost."""
    return lambda stage: large_messages(stage, name, times=times)


def fill_middleware(stage: Stage) -> None:
    """Have all that is far too large sent as often as any of its readers keeps a message: the room that the middleware
    makes for it stays, and is no growth afterwards."""
    # In bursts, for a place in a reader's history grows only when it is needed.
    for name, times, pause_s in (("task", 8, 0.2), ("teleop", 60, 0.01), ("joints", 100, 0.01)):
        with large_messages(stage, name, times=times, pause_s=pause_s):
            time.sleep(times * pause_s + FILL_START_S)


def _rival(
    kind: type, topic: str, make: Callable[[Stage], Any] | None = None, profile: QoSProfile = COMMAND
) -> Injection:
    """Somebody else publishes a topic that must come from one, again and again, or only offers to."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        node = rclpy.create_node("rival")
        try:
            publisher = node.create_publisher(kind, topic, profile)
            if make is None:
                yield
            else:
                with repeated(lambda _: publisher.publish(make(stage)))(stage):
                    yield
        finally:
            node.destroy_node()

    return inject


@contextmanager
def _other_task(stage: Stage) -> Iterator[None]:
    """The policy goes on with it: further chunks come, or else it ends in HOLD."""
    client = stage.client
    num_before = client.num_chunks + 2
    client.say_task(f"touch the {stage.random.choice(COLORS)} block")
    client.wait_until(lambda: client.num_chunks > num_before or client.mode != "POLICY", PATIENCE_S)
    yield


@contextmanager
def _no_task(stage: Stage) -> Iterator[None]:
    stage.client.say_task("")
    try:
        yield
    finally:
        stage.client.say_task(_instruction(stage))


def _instruction(stage: Stage) -> str:
    """What the episode is about."""
    assert stage.client.status is not None
    return stage.client.status.instruction


def _nan(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def _too_wide(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros((shape[0], shape[1] + 1), np.float32)


def _too_short(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros((shape[0] // 2, shape[1]), np.float32)


def _at_rest(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def faults(robot: RobotConfig) -> Mapping[str, Fault]:
    """Every fault of sensors, nodes and their link by its name."""
    command, joints = robot.outputs[0].command_topic, sensor_relay.PREFIX + sensor_relay.joints_topic(robot)
    mode, status, camera_names = topics.MODE.name, topics.STATUS.name, robot.camera_names
    return {
        "a camera is silent": Fault(_sensor(lambda: sensor_relay.dropped, *camera_names), ("camera '", " s old")),
        "a camera is frozen": Fault(_sensor(sensor_relay.Frozen, *camera_names), ("camera '", "is frozen")),
        "images half as large": Fault(_sensor(lambda: sensor_relay.half_as_large, *camera_names), ("image of 64x64",)),
        "images of an unknown encoding": Fault(
            _sensor(lambda: sensor_relay.of_an_unknown_encoding, *camera_names), ("holographic",)
        ),
        "images of an hour ago": Fault(
            _sensor(lambda: sensor_relay.of_long_ago, *camera_names), ("camera '", "header stamp is")
        ),
        "joint states silent": Fault(_sensor(lambda: sensor_relay.dropped, JOINTS), ("joint state ", " s old")),
        "a joint is missing": Fault(
            _sensor(lambda: sensor_relay.without_the_last_joint, JOINTS), ("joint state of", " s old")
        ),
        "a joint is not finite": Fault(_sensor(lambda: sensor_relay.not_finite, JOINTS), ("expected a finite number",)),
        "the robot stands still": Fault(_stopped("sim_node"), (" s old",)),
        "model node killed": Fault(_model_killed, ("vla_model",)),
        "model node stopped": Fault(_stopped("model_node"), ("vla_model",)),
        "model node deactivated": Fault(_model_deactivated, ("not active",)),
        "control loop away": Fault(
            _stopped("policy_node", OVERRUN_S), ("the control thread did not run for",), ("POLICY",)
        ),
        "a result that is not finite": Fault(_answered(_nan), ("not finite",)),
        "a result too wide": Fault(_answered(_too_wide), ("shape",)),
        "a result too short": Fault(_answered(_too_short), ("shape",)),
        "a result of another policy": Fault(_answered(_at_rest, OTHER_DIGEST), ("same policy directory",)),
        "another policy's heartbeat": Fault(
            repeated(lambda client: client.beat_as_another_policy()), ("same policy directory",)
        ),
        "garbage on the link": Fault(
            _garbage, ("request on '/vla_model/request' refused", "result on '/vla_model/result' refused"), ("POLICY",)
        ),
        "another task": Fault(_other_task, ("POLICY: engaged",), ("POLICY",)),
        "no task": Fault(_no_task, ("no instruction",)),
        "a task of 50 MB": Fault(too_large("task"), ("'vla_policy/task' refused: message has",), ("POLICY",)),
        "joint states of 200,000 names": Fault(too_large("joints", 20), ("joint state on", "message has"), ("POLICY",)),
        "images of 10^10 pixels": Fault(
            _sensor(lambda: sensor_relay.of_a_huge_size, *camera_names), ("image of 100000x100000 pixels",)
        ),
        "joint states jump": Fault(_sensor(sensor_relay.Jumping, JOINTS), ("jumped: joint",)),
        "control loop away for long": Fault(
            _stopped("policy_node", ABSENCE_S), ("the control thread did not run for",)
        ),
        "a second publisher of commands": Fault(_rival(JointTrajectory, command), (f"'/{command}' has 2 publishers",)),
        "a second publisher of the mode": Fault(
            _rival(String, mode, profile=LATCHED), (f"'/{mode}' has 2 publishers",)
        ),
        "a second driver": Fault(
            _rival(JointState, joints, lambda stage: stage.relay.last_joints),
            (f"'/{joints}' has 2 publishers", "/rival"),
        ),
        "a second model node": Fault(
            _rival(DiagnosticStatus, status, lambda stage: stage.client.heartbeat),
            (f"'/{status}' has ", "publishers", "/rival"),
        ),
    }
