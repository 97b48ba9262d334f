"""What can go wrong from outside the nodes: each fault as a context that injects it and ends it again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import sensor_relay
from fault_client import OTHER_DIGEST, Answer, FaultClient
from sensor_relay import JOINTS, SensorRelay, Spoiler

from vla_ros.demo.client import ACTIVATE, DEACTIVATE
from vla_ros.demo.world import START_TIMEOUT_S, TRANSITION_TIMEOUT_S, DemoWorld

PATIENCE_S = 10.0
OVERRUN_S = 0.2
"""More than the control loop may be away, less than makes joint states stale."""
REPEAT_S = 0.02
NUDGE_RAD = 0.03
NUM_GARBAGE = 20
NUM_HAND = 10
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


def _repeated(action: Callable[[FaultClient], None], num: int | None = None) -> Injection:
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
def _emergency_stop(stage: Stage) -> Iterator[None]:
    client = stage.client
    client.press_estop(True)
    try:
        yield
        for service in ("vla_policy/engage", "vla_policy/takeover", "vla_policy/reset_estop"):
            if client.trigger(service).success:
                raise ValueError(f"{service} was granted while the emergency stop is pressed")
    finally:
        client.press_estop(False)
    if not client.wait_until(lambda: client.trigger("vla_policy/reset_estop").success, PATIENCE_S):
        raise ValueError("the emergency stop could not be reset")


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
    status = stage.client.status
    assert status is not None
    stage.client.say_task("")
    try:
        yield
    finally:
        stage.client.say_task(status.instruction)


def _nan(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def _too_wide(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros((shape[0], shape[1] + 1), np.float32)


def _too_short(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros((shape[0] // 2, shape[1]), np.float32)


def _at_rest(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def faults(camera_names: tuple[str, ...]) -> Mapping[str, Fault]:
    """Every fault by its name."""
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
        "joint states silent": Fault(_sensor(lambda: sensor_relay.dropped, JOINTS), ("joint state on", " s old")),
        "a joint is missing": Fault(_sensor(lambda: sensor_relay.without_the_last_joint, JOINTS), ("lacks joint",)),
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
            _repeated(lambda client: client.beat_as_another_policy()), ("same policy directory",)
        ),
        "garbage on the link": Fault(_garbage, ("request refused", "'vla_model/result' refused"), ("POLICY",)),
        "emergency stop": Fault(_emergency_stop, ("emergency stop on",), ("ESTOP",)),
        "a hand takes over": Fault(_repeated(lambda client: client.nudge(NUDGE_RAD)), ("a human moves",), ("TELEOP",)),
        "a hand falls silent": Fault(
            _repeated(lambda client: client.nudge(NUDGE_RAD), NUM_HAND), ("nothing came on 'vla_policy/teleop'",)
        ),
        "malformed teleop": Fault(
            _repeated(lambda client: client.nudge(NUDGE_RAD, num_joints=2), NUM_HAND),
            ("'vla_policy/teleop' refused", "lacks joint"),
            ("POLICY",),
        ),
        "another task": Fault(_other_task, ("POLICY: engaged",), ("POLICY",)),
        "no task": Fault(_no_task, ("no instruction",)),
    }
